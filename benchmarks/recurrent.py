"""Every recurrent core against torch.nn.GRU of the same size, in one run: how many times as fast is it?

    python benchmarks/recurrent.py                          # about ten minutes on one core
    python benchmarks/recurrent.py --hidden 512 --lengths 64 --repeats 3

Forward and backward of a batch of 8 clips, and one step of one stream in inference; the convolutional core has 32 channels in each of
6 x 8 cells, as the default model gives it, whatever the others have. One thread, and the time of the processor, so that waiting for other
programs does not count. Contenders take turns, each turn compares with the GRU of that turn, and the median of the turns counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from machine import machine
from torch import Tensor, nn

from reelscribe.models.recurrent import CORES, build_core

BATCH, CELL_CHANNELS, GRID = 8, 32, (6, 8)
STEPS = 100  # in one measurement of the step
Contender = tuple[Callable[[int], None], Callable[[], None], int]  # training on so many frames, some steps, parameters
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in CORES} | {"gru, 4 groups": ("gru", {"groups": 4})}


def torch_gru(hidden: int) -> Contender:
    gru = nn.GRU(hidden, hidden, batch_first=True)

    def train(frames: int) -> None:
        gru(torch.randn(BATCH, frames, hidden, requires_grad=True))[0].square().mean().backward()

    def step() -> None:
        x, h = torch.randn(1, 1, hidden), torch.zeros(1, 1, hidden)
        with torch.inference_mode():
            for _ in range(STEPS):
                _, h = gru(x, h)

    return train, step, sum(p.numel() for p in gru.parameters())


def ours(name: str, options: dict[str, Any], hidden: int) -> Contender:
    size = CELL_CHANNELS if CORES[name].spatial else hidden
    grid = GRID if CORES[name].spatial else ()
    core = build_core(name, size, size, **options)

    def train(frames: int) -> None:
        core(torch.randn(BATCH, frames, size, *grid, requires_grad=True))[0].square().mean().backward()

    def step() -> None:
        x = torch.randn(1, size, *grid)
        state: tuple[Tensor, ...] | None = None
        with torch.inference_mode():
            for _ in range(STEPS):
                _, state = core.step(x, state)

    return train, step, sum(p.numel() for p in core.parameters())


def seconds(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def compare(works: dict[str, Callable[[], None]], repeats: int) -> tuple[dict[str, float], float]:
    """How many times as fast as the first each work is, and the seconds of the first."""
    first = next(iter(works))
    _, *turns = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats + 1)]  # the first is to warm up
    ratios = {name: statistics.median(turn[first] / turn[name] for turn in turns) for name in works}
    return ratios, statistics.median(turn[first] for turn in turns)


def main(hidden: int, lengths: Sequence[int], repeats: int) -> None:
    torch.set_num_threads(1)
    made = {"torch.nn.GRU": torch_gru(hidden)} | {label: ours(name, options, hidden) for label, (name, options) in CONTENDERS.items()}
    print(f"{machine('torch')}; {hidden} channels, median of {repeats} turns\n")
    columns = []
    for frames in lengths:
        works = {label: (lambda train=train, frames=frames: train(frames)) for label, (train, _, _) in made.items()}
        columns.append(compare(works, repeats))
    columns.append(compare({label: step for label, (_, step, _) in made.items()}, 3 * repeats))
    print("| core | parameters | " + " | ".join(f"forward + backward, T = {frames}" for frames in lengths) + " | step |")
    print("|---|---|" + "---|" * len(columns))
    for label, (_, _, parameters) in made.items():
        print(f"| {label} | {parameters} | " + " | ".join(f"{ratios[label]:.2f}" for ratios, _ in columns) + " |")
    absolute = [f"{taken * 1000:.0f} ms" for _, taken in columns[:-1]] + [f"{columns[-1][1] / STEPS * 1e6:.0f} µs"]
    print("| *of which torch.nn.GRU takes* | | " + " | ".join(absolute) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128, help="channels of all but the convolutional core")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 256, 1024], help="frames")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    main(chosen.hidden, chosen.lengths, chosen.repeats)
