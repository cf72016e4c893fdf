"""Delayed recall: the answer is shown K frames ago, with noise since. Which core, trained from scratch, still gives it?

    python benchmarks/recall.py --picture recall.png         # about half an hour on one core
    python benchmarks/recall.py --delays 16 --seeds 1

The first frame shows one of 8 classes and a mark; K frames of noise follow, and the last state must tell the class. Every core has 32
channels (the convolutional one on 2 x 2 cells) and the same training: Adam, batches of 16 new sequences, gradients clipped to norm 1, until
a fresh batch of 256 is right to 99 % or the steps are used up. The picture shows why: the norm of the gradient of the loss with respect
to the state after each frame, before and after training, found by stepping.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from machine import machine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reelscribe.models.readout import build_readout
from reelscribe.models.recurrent import CORES, State, build_core

CLASSES, HIDDEN, BATCH, FRESH = 8, 32, 16, 256
EVALUATE_EVERY, SOLVED = 25, 0.99


class Recaller(nn.Module):
    """A core and a linear layer on its last state; where a core knows no order, on the mean of its states."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.core = build_core(name, CLASSES + 1, HIDDEN)
        self.readout = build_readout("last" if self.core.ordered else "mean", HIDDEN)
        self.classifier = nn.Linear(HIDDEN, CLASSES)

    def inputs(self, x: Tensor) -> Tensor:
        """Where the core takes grids, every cell shows the same."""
        return x[..., None, None].expand(*x.shape, 2, 2) if self.core.spatial else x

    def logits(self, y: Tensor) -> Tensor:
        """Outputs of the core (B, T, hidden) -> (B, classes)."""
        y = y.mean((-2, -1)) if self.core.spatial else y
        scores: Tensor = self.classifier(self.readout(y, torch.full((len(y),), y.shape[1]))[0])
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.core(self.inputs(x))[0])


def sequences(count: int, delay: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, 1 + delay, classes + 1) and the classes (B,)."""
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    x = torch.randn(count, 1 + delay, CLASSES + 1, generator=generator)
    x[:, :, CLASSES] = 0
    x[:, 0] = torch.nn.functional.one_hot(targets, CLASSES + 1).float()
    x[:, 0, CLASSES] = 1
    return x, targets


def train(name: str, delay: int, seed: int, steps: int) -> tuple[Recaller, float, int | None]:
    """The trained network, its accuracy on fresh sequences, and the steps it took to solve the task if it did."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Recaller(name)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    accuracy = 0.0
    for step in range(1, steps + 1):
        x, targets = sequences(BATCH, delay, generator)
        optimizer.zero_grad()
        cross_entropy(network(x), targets).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % EVALUATE_EVERY == 0:
            with torch.no_grad():
                x, targets = sequences(FRESH, delay, torch.Generator().manual_seed(10_000 + step))
                accuracy = (network(x).argmax(1) == targets).float().mean().item()
            if accuracy >= SOLVED:
                return network, accuracy, step
    return network, accuracy, None


def state_gradients(network: Recaller, delay: int) -> list[float]:
    """The norm of the loss's gradient with respect to the state after each frame, first frame first; empty for a core without state."""
    x, targets = sequences(BATCH, delay, torch.Generator().manual_seed(1))
    state: State | None = None
    states: list[State] = []
    outputs = []
    for x_t in network.inputs(x).unbind(1):
        y_t, state = network.core.step(x_t, state)
        states.append(tuple(part.clone() if part.is_leaf else part for part in state if part.is_floating_point()))
        outputs.append(y_t)
    parts = [part for held in states for part in held]
    if not parts:
        return []
    loss = cross_entropy(network.logits(torch.stack(outputs, 1)), targets)
    found = iter(torch.autograd.grad(loss, parts, allow_unused=True))
    gradients = [[next(found) for _ in held] for held in states]
    return [sum(float(g.square().sum()) for g in held if g is not None) ** 0.5 for held in gradients]


def draw(curves: dict[str, tuple[list[float], list[float]]], delay: int, path: Path) -> None:
    """Gradients by frames before the end, at the start and at the end of training."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True)
    for axis, title, which in zip(axes, ("before training", "after training"), (0, 1), strict=True):
        for name, pair in curves.items():
            values = [max(value, 1e-20) for value in reversed(pair[which])]  # none at all is shown at the bottom
            axis.plot(range(len(values)), values, label=name)
        axis.set(title=title, xlabel="frames before the last", yscale="log", ylim=(1e-14, 1e2))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("norm of the gradient of the loss\nwith respect to the state")
    axes[1].legend()
    figure.suptitle(f"Recall over {delay} frames")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def cell(found: Sequence[tuple[float, int | None]]) -> str:
    """Mean accuracy, how many seeds solved it, and in how many steps."""
    solved = [step for _, step in found if step is not None]
    accuracy = f"{statistics.mean(accuracy for accuracy, _ in found):.2f}"
    return f"**{accuracy}**, {len(solved)}/{len(found)} in {statistics.median(solved):.0f}" if solved else f"{accuracy}, 0/{len(found)}"


def main(names: Sequence[str], delays: Sequence[int], seeds: int, steps: int, picture: Path | None) -> None:
    torch.set_num_threads(1)
    print(f"{machine('torch')}; {seeds} seeds, at most {steps} steps, chance {1 / CLASSES:.2f}\n")
    print("| core | " + " | ".join(f"K = {delay}" for delay in delays) + " |")
    print("|---|" + "---|" * len(delays))
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name in names:
        cells = []
        for delay in delays:
            trained = [train(name, delay, seed, steps) for seed in range(seeds)]
            cells.append(cell([(accuracy, step) for _, accuracy, step in trained]))
        torch.manual_seed(0)
        curves[name] = (state_gradients(Recaller(name), delays[-1]), state_gradients(trained[0][0], delays[-1]))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if picture is not None:
        draw({name: pair for name, pair in curves.items() if pair[0]}, delays[-1], picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=list(CORES))
    parser.add_argument("--delays", type=int, nargs="+", default=[16, 64, 256], help="frames since the answer; the last is drawn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--picture", type=Path, help="where the gradients are drawn (PNG, SVG or PDF)")
    chosen = parser.parse_args()
    main(chosen.cores, chosen.delays, chosen.seeds, chosen.steps, chosen.picture)
