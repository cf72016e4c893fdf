"""From decoded clips to predictions: the one path that evaluation, labelling, serving and the command line share."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from reelscribe.models.backbone import Seen
from reelscribe.models.captioner import Captioner
from reelscribe.pipeline.answers import AnyPrediction, CaptionPrediction, finite, read_frames, read_logits, with_confidence
from reelscribe.pipeline.bundle import BundleSpec, ModelBundle
from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.types import TimedFrames, Uint8Array, seconds_between
from reelscribe.pipeline.vocabulary import END, vocabulary


def pick_device(wanted: str = "auto") -> torch.device:
    """The device by name; ``auto`` is the first GPU where there is one. Raises UsageError for one that is not here."""
    gpus = torch.cuda.device_count()
    if wanted == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise UsageError(f"device '{wanted}': expected auto, cpu, cuda or cuda:N")
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= gpus:
        raise UsageError(f"device '{wanted}': this machine has {gpus} GPUs that torch can use; try auto or cpu")
    return torch.device(wanted)


def pick_gpu(wanted: str) -> torch.device:
    """As pick_device. Raises UsageError for the CPU, too."""
    device = pick_device(wanted)
    if device.type != "cuda":
        where = "this machine has no GPU that torch can use" if wanted == "auto" else f"not '{wanted}'"
        raise UsageError(f"runtime 'torch-compile' needs a GPU ({where}); try --runtime auto")
    return device


def frames_tensor(pixels: Uint8Array) -> torch.Tensor:
    """Frames as the networks take them: uint8 (T, 3, H, W)."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (T, H, W, 3) -> (T, 3, H, W)


def frame_gaps(times_s: Sequence[float]) -> torch.Tensor:
    """As seconds_between, for a network: (T,)."""
    if not any(times_s):  # they are not known
        return torch.zeros(len(times_s))
    return torch.from_numpy(seconds_between(times_s))


def pad(clips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack clips (T, ...) of any length: (B, T, ...) with zeros at the end, and lengths (B,)."""
    lengths = [len(clip) for clip in clips]
    stacked = torch.stack(list(clips)) if len(set(lengths)) == 1 else torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    return stacked, torch.tensor(lengths)


class Predictor:
    """A model ready to answer.

    Of a single label, the probabilities are the softmax of the logits over the temperature, averaged over the views. Clips are run one by
    one, so that a clip's answer never depends on its neighbours in a batch. ``compiled`` runs what torch.compile makes of the network, in
    bf16, on a GPU. Raises UsageError for a device that is not here.
    """

    def __init__(self, bundle: ModelBundle, device: str = "auto", *, compiled: bool = False) -> None:
        self.bundle = bundle
        self.device = pick_gpu(device) if compiled else pick_device(device)
        self.model = bundle.build().to(self.device)
        self.compiled = compiled
        if compiled:
            self.model.compile(dynamic=True)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Clip]) -> list[AnyPrediction]:
        """One prediction per clip."""
        return [self._predict(clip) for clip in clips]

    @torch.inference_mode()
    def logits(self, views: Sequence[TimedFrames]) -> npt.NDArray[np.float32]:
        """Of views that are run together: (views, C), or (views, T, C) frame by frame."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.compiled):
            said: torch.Tensor = self.model(*self._inputs(views))
        return said.float().cpu().numpy()

    def _predict(self, clip: Clip) -> AnyPrediction:
        views = [(view.pixels, seconds_between(view.pts_seconds)) for view in clip.views]
        if isinstance(self.model, Captioner):
            frames, lengths, gaps = self._inputs(views[:1])
            seen = self.model.forward_features(self.model.encode(frames), lengths, gaps)
            return caption(self.model, seen, self.bundle.spec, seed=clip.digest)
        logits = self.logits(views)
        if self.bundle.spec.task == "dense":
            return read_frames(logits[0], [time - clip.info.begin_s for time in clip.views[0].pts_seconds], self.bundle.spec.labels)
        return read_logits(logits, self.bundle.spec)

    def _inputs(self, views: Sequence[TimedFrames]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What the network takes, on its device."""
        frames, lengths = pad([frames_tensor(pixels) for pixels, _ in views])
        gaps = pad([torch.from_numpy(gaps) for _, gaps in views])[0].to(self.device) if self.model.takes_gaps else None
        return frames.to(self.device), lengths.to(self.device), gaps


def caption(model: Captioner, seen: Seen, spec: BundleSpec, *, seed: str) -> CaptionPrediction:
    """What a captioner says of one clip that it has seen, searched for or, at a temperature, drawn at random from the seed.

    Raises ModelError for numbers that are not finite.
    """
    lengths, settings = torch.tensor([seen.states.shape[1]], device=seen.states.device), spec.caption
    if settings.temperature:
        draw = {"temperature": settings.temperature, "top_p": settings.top_p, **settings.rules}
        numbers = [zlib.crc32(f"{seed} {i}".encode()) for i in range(settings.beam)]
        drawn = [model.imagine(seen, lengths, seed=number, **draw)[0] for number in numbers]
        found = sorted({one.tokens: one for one in drawn}.values(), key=lambda one: -one.score(settings.length_penalty))
    else:
        (found,) = model.say(seen, lengths, beam=settings.beam, **settings.rules)
    words = vocabulary(spec.labels)
    means = finite(np.array([one.score(1.0) for one in found], dtype=np.float32))
    draft = CaptionPrediction(
        label="",
        confidence=0.0,
        top_k=tuple((words.decode(one.tokens), 0.0) for one in found),
        accepted=None,
        scores=means,
        tokens=(*(words.tokens[token] for token in found[0].tokens), END),
        attention=found[0].attention.cpu().numpy(),
        log_probabilities=tuple(means.tolist()),
    )
    return with_confidence(draft, spec)
