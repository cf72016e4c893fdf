"""Order alone: which core tells a clip from the same clip played backwards, where the encoder is shown no motion?

    python benchmarks/order.py order                          # about an hour and a half on one core; the folder takes 2 GB
    python benchmarks/order.py order --videos 800 --cores gru mean --seeds 0

Draws clips in four pairs of classes into the folder (once), computes their features (once), and trains `configs/order.yaml` with each core
and seed; the last epoch counts. Figures of finished trainings stay in the folder too, so that the program can be stopped and goes on. The
recipe was chosen by the validation clips; the test clips chose nothing. Who sees the frames without their order may name the pair, and can
only guess which of the two it is. One core alone, with MLflow and a model to keep: `reelscribe train configs/order.yaml`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import machine

from reelscribe.models.recurrent import CORES
from reelscribe.pipeline.bundle import untrained
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.drawing.order import PAIRS, draw_order_dataset
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.training.data import ClipSet, TrainingData, prepare
from reelscribe.pipeline.training.loop import Trainer
from reelscribe.pipeline.training.recipes.splits import split_rows
from reelscribe.pipeline.video.sandbox.pool import DecodePool

GROUPED = "gru, 4 groups"
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "order.yaml"
PAIR_OF = {label: number for number, pair in enumerate(PAIRS) for label in pair}
# what a core needs beside its name: one layer of the minimal ones is linear in its state, convgru would keep the projection's few channels
OWN = {
    "convgru": ["model.state_channels=16"],
    "mingru": ["model.layers=2"],
    "minlstm": ["model.layers=2"],
    GROUPED: ["model.recurrent=gru", "model.groups=4"],
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """Shares of right answers of one training."""

    val: float
    test: float
    test_pair: float  # the class, or the one that is it backwards


def load(manifest: Path, core: str, seed: int = 0, *, judge: str = "val") -> Config:
    splits = [f"data.val_split={judge}", f"data.test_split={'test' if judge == 'val' else 'val'}"]
    recurrent = "gru" if core == GROUPED else core
    return load_config(
        str(CONFIG), [f"data.manifest={manifest}", f"seed={seed}", *splits, f"model.recurrent={recurrent}", *OWN.get(core, [])]
    )


def features(config: Config, cache: Path) -> TrainingData:
    """What every core and seed is trained on."""
    splits = split_rows(read_manifest(config.data.manifest, require_labels=True), config.data)
    model = untrained(config, splits.labels).eval()
    with DecodePool(config.decode.num_workers, config.decode.limits) as pool, progress("decoding and encoding") as advance:
        return prepare(splits, config, model, pool=pool, cache=FeatureCache(cache), progress=advance)


def train(config: Config, data: TrainingData, test: ClipSet) -> Found:
    model = untrained(config, data.labels)
    settings: dict[str, Any] = {"seed": config.seed, "device": torch.device("cpu"), "augmentation": config.augmentation}

    def named(clips: ClipSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes named and true."""
        logits, _ = Trainer(model, config.training, replace(data, val=clips), **settings).validate()
        return logits.argmax(dim=1), torch.tensor(clips.targets)

    few = ClipSet(video_ids=data.val.video_ids[:8], files=data.val.files[:8], targets=data.val.targets[:8])
    Trainer(model, config.training, replace(data, val=few), **settings).fit(lambda _: None)  # the last epoch counts: no others are judged
    (val, val_true), (found, true) = named(data.val), named(test)
    pairs = torch.tensor([PAIR_OF[label] for label in data.labels])
    return Found(val=_share(val == val_true), test=_share(found == true), test_pair=_share(pairs[found] == pairs[true]))


def _share(right: torch.Tensor) -> float:
    return right.float().mean().item()


def main(folder: Path, videos: int, cores: Sequence[str], seeds: Sequence[int]) -> None:
    torch.set_num_threads(1)
    with progress("drawing videos"):
        manifest = draw_order_dataset(folder / "videos", num_videos=videos, broken_share=0)
    data, test = (features(load(manifest, cores[0], judge=judge), folder / "cache") for judge in ("val", "test"))
    print(f"{machine('torch')}; {len(data.train)} training, {len(data.val)} validation and {len(test.val)} test clips\n", flush=True)
    trained: dict[str, list[Found]] = {core: [] for core in cores}
    with progress("training") as advance:
        for done, (seed, core) in enumerate(itertools.product(seeds, cores), start=1):
            config = load(manifest, core, seed)
            kept = folder / "trained" / f"{hashlib.sha256(json.dumps([config.recipe, data.digest]).encode()).hexdigest()[:24]}.json"
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                kept.write_text(json.dumps(asdict(train(config, data, test.val))), encoding="utf-8")
            found = Found(**json.loads(kept.read_text(encoding="utf-8")))
            trained[core].append(found)
            advance(done, len(seeds) * len(cores), f"{core}, seed {seed}: {found.val:.3f} of validation, {found.test:.3f} of test")
    print("| core | validation | test | test, seed by seed | pair right | parameters after the encoder |")
    print("|---|---|---|---|---|---|")
    for core, each in trained.items():
        model = untrained(load(manifest, core), data.labels)
        size = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.encoder.parameters())
        every, pair = " ".join(f"{one.test:.3f}" for one in each), statistics.mean(one.test_pair for one in each)
        print(f"| {core} | {_spread([one.val for one in each])} | {_spread([one.test for one in each])} | {every} | {pair:.3f} | {size} |")


def _spread(shares: Sequence[float]) -> str:
    return f"{statistics.mean(shares):.3f}" + (f" ± {statistics.stdev(shares):.3f}" if len(shares) > 1 else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the videos and their features")
    parser.add_argument("--videos", type=int, default=4800, help="to draw; seven in twelve are trained on, one in eight judges")
    parser.add_argument("--cores", nargs="+", default=[*CORES, GROUPED], choices=[*CORES, GROUPED])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    main(chosen.folder, chosen.videos, chosen.cores, chosen.seeds)
