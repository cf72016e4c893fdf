"""Labelling jobs against the loop of a tutorial, against other video networks, and against what decoding and inference take alone.

    python benchmarks/labelling.py                              # some minutes on two cores
    python benchmarks/labelling.py --videos 162 --rounds 3

The real clips of ../shared/data (fights and gestures), linked under new names, and then drawn files of ten minutes (240 lines, a keyframe
every two seconds). Contenders take turns, each turn on the same files; the slow ones on a few of them, by the video. The tutorial's loop:
OpenCV reads all frames, the same CNN and frames as ours, eager, fp32, frame by frame into nn.LSTM, one video after another. Peers with
random weights: torchvision's r3d_18; VideoMAE-B of transformers and X3D-S of pytorchvideo where these packages are installed
(`pip install transformers`, `pip install --no-deps pytorchvideo fvcore iopath`). Floor: decoding alone and inference alone, one after the
other, on all cores each. Random weights, as time does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does

import cv2
import numpy as np
import torch
from decode import file_of
from machine import machine
from torch import Tensor, nn

from reelscribe.models.encoders import build_encoder
from reelscribe.pipeline.bundle import BundleSpec, ModelBundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import ModelConfig, TransformConfig
from reelscribe.pipeline.labeling.job import JobOptions, run_job, stages_of
from reelscribe.pipeline.labeling.stages import Decoded, Video
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.runtimes.choice import agreement, choose
from reelscribe.pipeline.runtimes.names import GRAPH_RUNTIMES, GraphRuntime, Runtime
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.tracking.fetch import ResolvedModel
from reelscribe.pipeline.video.clip import read_clip
from reelscribe.pipeline.video.types import seconds_between

FRAMES, HEIGHT, WIDTH, LABELS = 16, 96, 128, ("a", "b", "c")
BATCH = 8
LONG_S = 600
Peers = dict[str, Callable[[Path], object]]  # name -> labels one video
TUTORIAL = "the tutorial's loop"


class Taken(NamedTuple):
    """Seconds a video."""

    wall_s: float
    processor_s: float  # of this process and of its decode workers

    def __add__(self, other: tuple[object, ...]) -> Taken:
        assert isinstance(other, Taken)
        return Taken(self.wall_s + other.wall_s, self.processor_s + other.processor_s)


def measured(run: Callable[[], object], videos: int) -> Taken:
    began, used = time.perf_counter(), processor_s()
    run()
    return Taken((time.perf_counter() - began) / videos, (processor_s() - used) / videos)


def processor_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def new_model(folder: Path, videos: Sequence[Path]) -> ModelBundle:
    """With random weights, and some of the videos' clips beside them."""
    model, transform = ModelConfig(weights="none"), TransformConfig(height=HEIGHT, width=WIDTH)
    network = new_recognizer(model, transform, num_classes=len(LABELS))
    spec = BundleSpec(name="speed", labels=LABELS, model=model, sampling=UniformSampling(num_frames=FRAMES), transform=transform)
    bundle = save_bundle(folder, spec=spec, state=network.state_dict(), card="")
    views = [read_clip(bundle.request(str(video))).views[0] for video in videos]
    clips = [(view.pixels, seconds_between(view.pts_seconds)) for view in views]
    return save_bundle(folder, spec=spec, state=network.state_dict(), card="", clips=clips)


def usable(bundle: ModelBundle, runtime: GraphRuntime) -> bool:
    """Whether it runs here, and says what torch says; else why not is printed."""
    verdict = agreement(bundle, runtime, "cpu")
    if not verdict.agrees:
        print(f"{runtime} is left out: {verdict.say()}")
    return verdict.agrees


def opencv_frames(path: Path, count: int, height: int, width: int) -> Tensor:
    """All frames are read, ``count`` of them kept: floats (count, 3, height, width)."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    kept = [frames[int((i + 0.5) * len(frames) / count)] for i in range(count)]
    small = np.stack([cv2.resize(frame, (width, height)) for frame in kept])
    return (torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


class Tutorial(nn.Module):
    """CNN and nn.LSTM as everybody writes them, of the size of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = build_encoder("tf_efficientnet_lite0").body.to(memory_format=torch.contiguous_format)
        self.project = nn.Conv2d(112, 32, 1)
        self.lstm = nn.LSTM(32 * (HEIGHT // 16) * (WIDTH // 16), 256, batch_first=True)
        self.head = nn.Linear(256, len(LABELS))

    def forward(self, frames: Tensor) -> Tensor:
        features = torch.stack([self.project(self.cnn(frame[None])).flatten() for frame in frames])
        logits: Tensor = self.head(self.lstm(features[None])[0][:, -1])
        return logits


def peers() -> Peers:
    """Those that are installed; why one is left out is printed."""
    from torchvision.models.video import r3d_18

    tutorial, r3d = Tutorial().eval(), r3d_18(weights=None).eval()
    found: Peers = {
        TUTORIAL: lambda path: tutorial(opencv_frames(path, FRAMES, HEIGHT, WIDTH)),
        "r3d_18": lambda path: r3d(opencv_frames(path, 16, 112, 112).transpose(0, 1)[None]),
    }
    try:
        from pytorchvideo.models.x3d import create_x3d

        x3d = create_x3d(input_clip_length=13, input_crop_size=160).eval()
        found["X3D-S"] = lambda path: x3d(opencv_frames(path, 13, 160, 160).transpose(0, 1)[None])
    except ImportError as error:
        print(f"X3D-S is left out: {error}")
    try:
        from transformers import VideoMAEConfig, VideoMAEForVideoClassification

        videomae = VideoMAEForVideoClassification(VideoMAEConfig()).eval()
        found["VideoMAE-B"] = lambda path: videomae(opencv_frames(path, 16, 224, 224)[None])
    except ImportError as error:
        print(f"VideoMAE-B is left out: {error}")
    return found


class Ours:
    """A job of one runtime, and its two halves alone."""

    def __init__(self, bundle: ModelBundle, runtime: Runtime, folder: Path, out: Path) -> None:
        self.bundle, self.folder, self.out = bundle, folder, out
        self.options = JobOptions(runtime=runtime, device="cpu")
        self.count = itertools.count()

    def job(self) -> None:
        videos = list_input(str(self.folder))
        out = self.out / f"{self.options.runtime}-{next(self.count)}"
        summary = run_job(
            bundle=self.bundle, identity=ResolvedModel(folder=self.bundle.folder), videos=videos, out=out, options=self.options
        )
        assert summary.labelled == videos.num_rows, summary

    def floor(self, videos: int) -> Taken:
        """Decoding alone and inference alone."""
        decode, predict = stages_of(self.bundle, self.options)
        rows = list_input(str(self.folder)).select(["video_id", "uri", "start_s", "end_s"]).to_pylist()
        decoded: list[Decoded] = []

        def decoding() -> None:
            decode.setup()
            decoded.extend(decode(Video(position=i, **row) for i, row in enumerate(rows)))
            decode.teardown()

        def inference() -> None:
            for start in range(0, len(decoded), BATCH):
                predict(decoded[start : start + BATCH])

        alone = measured(decoding, videos)
        return alone + measured(lambda: (predict.setup(), inference()), videos)


def videos_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.mp4")) + sorted(folder.rglob("*.avi"))


def link(sources: Sequence[Sequence[Path]], folder: Path, count: int) -> list[Path]:
    """One file of each source in turn, under new names."""
    cycles = zip(*map(itertools.cycle, sources), strict=True)
    turns = list(itertools.islice(itertools.chain.from_iterable(cycles), count))
    folder.mkdir()
    links = [folder / f"{i:05}{clip.suffix}" for i, clip in enumerate(turns)]
    for new, clip in zip(links, turns, strict=True):
        new.symlink_to(clip.resolve())
    return links


def few(run: Callable[[Path], object], files: Sequence[Path]) -> Callable[[], object]:
    def all_of_them() -> None:
        with torch.inference_mode():
            for file in files:
                run(file)

    return all_of_them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--long", type=int, default=4, help="files of ten minutes; 0 leaves them out")
    parser.add_argument("--few", type=int, default=6, help="clips of a slow contender in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    print(machine("torch", "openvino", "onnxruntime", "torchvision", "transformers", "pytorchvideo"), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["REELSCRIBE_CACHE"] = str(folder / "cache")
        clips = link([videos_in(arguments.data / name) for name in ("fights", "gestures")], folder / "clips", arguments.videos)
        bundle = new_model(folder / "model", clips[:8])
        print(f"auto: {choose(bundle, 'auto', 'cpu')}", flush=True)
        runtimes: list[Runtime] = ["torch", *(name for name in GRAPH_RUNTIMES if usable(bundle, name))]
        others = peers()
        print(f"\n{len(clips)} clips")
        take_turns(bundle, runtimes, others, clips, rounds=arguments.rounds, num_few=arguments.few)
        if arguments.long:
            long = link([[file_of(folder, 240, LONG_S)]], folder / "long", arguments.long)
            print(f"\n{len(long)} files of {LONG_S} s")
            others = {name: run for name, run in others.items() if name == TUTORIAL}  # the peers read as it does
            take_turns(bundle, runtimes, others, long, rounds=arguments.rounds, num_few=1)


def take_turns(bundle: ModelBundle, runtimes: list[Runtime], others: Peers, files: list[Path], *, rounds: int, num_few: int) -> None:
    """Every contender on the files of one folder, round after round; prints the table."""
    taken: dict[str, list[Taken]] = {}
    folder = files[0].parent
    ours = {runtime: Ours(bundle, runtime, folder, folder.with_name(f"{folder.name}-out")) for runtime in runtimes}
    for turn in range(rounds):
        for runtime, one in ours.items():
            note(taken, f"ours, {runtime}", measured(one.job, len(files)))
            note(taken, f"floor, {runtime}", one.floor(len(files)))
        for name, run in others.items():
            start = turn * num_few % max(1, len(files) - num_few)
            note(taken, name, measured(few(run, files[start : start + num_few]), num_few))
    report(taken, [f"ours, {runtime}" for runtime in runtimes], list(others))


def note(taken: dict[str, list[Taken]], name: str, found: Taken) -> None:
    """Keep a turn, and show it: rounds are long."""
    taken.setdefault(name, []).append(found)
    print(f"{name}: {found.wall_s * 1000:.0f} ms a video by clock, {found.processor_s * 1000:.0f} by processor", flush=True)


def report(taken: dict[str, list[Taken]], ours: list[str], others: list[str]) -> None:
    """Milliseconds a video, and how many times ours each takes in the same round: the median of the rounds."""
    print(f"\n| | clock, ms a video | processor, ms a video |{''.join(f' times {name}: clock / processor |' for name in ours)}")
    print("|---|---|---|" + "---|" * len(ours))
    for name in [*ours, *(one.replace("ours", "floor") for one in ours), *others]:
        wall, used = (statistics.median(getattr(t, field) for t in taken[name]) * 1000 for field in ("wall_s", "processor_s"))
        ratios = []
        for one in ours:
            pairs = list(zip(taken[name], taken[one], strict=True))
            clock = statistics.median(theirs.wall_s / mine.wall_s for theirs, mine in pairs)
            processor = statistics.median(theirs.processor_s / mine.processor_s for theirs, mine in pairs)
            ratios.append(f" {clock:.2f} / {processor:.2f} |")
        print(f"| {name} | {wall:.0f} | {used:.0f} |{''.join(ratios)}")


if __name__ == "__main__":
    main()
