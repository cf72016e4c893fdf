"""Order alone: which core tells a clip from the same clip played backwards, where the encoder is shown no motion?

    python benchmarks/order.py order --picture order.png      # about an hour on two cores; the folder takes 1.5 GB
    python benchmarks/order.py order --videos 800 --cores gru mean --seeds 0

Draws clips in four pairs of classes into the folder (once), and trains `configs/order.yaml` with each core and seed, as does
`reelscribe compare`. Who sees the frames without their order tells the pair, and can only guess which of the two: 0.5.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from machine import machine

from reelscribe.models.recurrent import CORES
from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.drawing.order import draw_order_dataset
from reelscribe.pipeline.training.recipes.comparison import Candidate, run_comparison

GROUPED = "gru, 4 groups"
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "order.yaml"


def overrides(core: str) -> list[str]:
    return ["model.recurrent=gru", "model.groups=4"] if core == GROUPED else [f"model.recurrent={core}"]


def row(candidate: Candidate) -> str:
    cost, repeats = candidate.cost, candidate.repeats
    every = " ".join(f"{repeat.result.bundle.spec.metrics['top1']:.3f}" for repeat in repeats.repeats)
    deviation = repeats.spread("top1").deviation
    spread = f"{repeats.spread('top1').mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
    steps = "-" if cost.head_step_ms is None else f"{cost.head_step_ms:.2f}"
    return (
        f"| {candidate.name} | {spread} | {every} | {cost.head_parameters} | {cost.head_macs} | {candidate.epoch_s:.1f} | {steps} "
        f"| {cost.training_mb:.0f} | {cost.gradient_lag} |"
    )


def main(folder: Path, videos: int, cores: Sequence[str], seeds: Sequence[int], picture: Path | None) -> None:
    where = machine("torch")
    with progress("drawing videos"):
        manifest = draw_order_dataset(folder / "videos", num_videos=videos, broken_share=0)
    places = [f"data.manifest={manifest}", f"output={folder / 'runs'}", f"tracking.uri=sqlite:///{(folder / 'mlflow.db').absolute()}"]
    variants = {core: load_config(str(CONFIG), [*places, *overrides(core)]) for core in cores}
    found = run_comparison(variants, seeds, progress=progress)
    print(f"{where}; {found.candidates[0].repeats.spread('clips').mean:.0f} validation clips, seeds {', '.join(map(str, seeds))}\n")
    print("| core | top-1 | seed by seed | parameters | MACs a frame | s an epoch | ms a step | training MB | gradient lag |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(row(candidate) for candidate in found.candidates))
    if picture is not None:
        shutil.copy(found.picture, picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the videos, the features and the runs")
    parser.add_argument("--videos", type=int, default=4800, help="to draw; seven in twelve are trained on, one in eight judges")
    parser.add_argument("--cores", nargs="+", default=[*CORES, GROUPED], choices=[*CORES, GROUPED])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", type=Path, help="where accuracy against cost is drawn (PNG)")
    chosen = parser.parse_args()
    main(chosen.folder, chosen.videos, chosen.cores, chosen.seeds, chosen.picture)
