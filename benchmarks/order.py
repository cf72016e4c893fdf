"""Order alone: which core tells a clip from the same clip played backwards, where the encoder is shown no motion?

    python benchmarks/order.py order                          # about an hour on one core; the folder takes 1.5 GB
    python benchmarks/order.py order --videos 800 --cores gru mean --seeds 0

Draws clips in four pairs of classes into the folder (once), computes their features (once), and trains `configs/order.yaml` with each core
and seed; the last epoch counts. Who sees the frames without their order may name the pair, and can only guess which of the two it is. One
core alone, with MLflow and a model to keep: `reelscribe train configs/order.yaml`; all of them: `reelscribe compare`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

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
from reelscribe.pipeline.training.data import TrainingData, prepare
from reelscribe.pipeline.training.loop import Trainer
from reelscribe.pipeline.training.recipes.splits import split_rows
from reelscribe.pipeline.video.sandbox.pool import DecodePool

GROUPED = "gru, 4 groups"
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "order.yaml"
PAIR_OF = {label: number for number, pair in enumerate(PAIRS) for label in pair}


def load(manifest: Path, core: str, seed: int = 0) -> Config:
    chosen = ["model.recurrent=gru", "model.groups=4"] if core == GROUPED else [f"model.recurrent={core}"]
    return load_config(str(CONFIG), [f"data.manifest={manifest}", f"seed={seed}", *chosen])


def features(config: Config, cache: Path) -> TrainingData:
    """What every core and seed is trained on."""
    splits = split_rows(read_manifest(config.data.manifest, require_labels=True), config.data)
    model = untrained(config, splits.labels).eval()
    with DecodePool(config.decode.num_workers, config.decode.limits) as pool, progress("decoding and encoding") as advance:
        return prepare(splits, config, model, pool=pool, cache=FeatureCache(cache), progress=advance)


def train(config: Config, data: TrainingData) -> tuple[float, float]:
    """Shares of the validation clips whose class is named, and whose pair is."""
    model = untrained(config, data.labels)
    trained = Trainer(model, config.training, data, seed=config.seed, device=torch.device("cpu")).fit(lambda _: None)
    targets, named = torch.tensor(data.val.targets), trained.val_logits.argmax(dim=1)
    pairs = torch.tensor([PAIR_OF[label] for label in data.labels])
    return (named == targets).float().mean().item(), (pairs[named] == pairs[targets]).float().mean().item()


def main(folder: Path, videos: int, cores: Sequence[str], seeds: Sequence[int]) -> None:
    torch.set_num_threads(1)
    with progress("drawing videos"):
        manifest = draw_order_dataset(folder / "videos", num_videos=videos, broken_share=0)
    data = features(load(manifest, cores[0]), folder / "cache")
    print(f"{machine('torch')}; {len(data.train)} training clips, {len(data.val)} validation clips\n")
    print("| core | top-1 | seed by seed | pair right | parameters after the encoder |")
    print("|---|---|---|---|---|")
    trained: dict[str, list[tuple[float, float]]] = {core: [] for core in cores}
    with progress("training") as advance:
        for done, (seed, core) in enumerate(itertools.product(seeds, cores), start=1):
            trained[core].append(train(load(manifest, core, seed), data))
            advance(done, len(seeds) * len(cores), f"{core}, seed {seed}: top-1 {trained[core][-1][0]:.3f}")
    for core, found in trained.items():
        right = [share for share, _ in found]
        spread = f" ± {statistics.stdev(right):.3f}" if len(right) > 1 else ""
        every, pairs = " ".join(f"{share:.3f}" for share in right), statistics.mean(share for _, share in found)
        model = untrained(load(manifest, core), data.labels)
        size = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.encoder.parameters())
        print(f"| {core} | {statistics.mean(right):.3f}{spread} | {every} | {pairs:.3f} | {size} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the videos and their features")
    parser.add_argument("--videos", type=int, default=4800, help="to draw; seven in twelve are trained on, one in eight judges")
    parser.add_argument("--cores", nargs="+", default=[*CORES, GROUPED], choices=[*CORES, GROUPED])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    main(chosen.folder, chosen.videos, chosen.cores, chosen.seeds)
