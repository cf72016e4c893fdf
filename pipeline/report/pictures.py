"""Pictures of a training run, drawn by matplotlib's Agg canvas alone: no window system, no state shared between threads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

TRAIN_COLOR, VAL_COLOR = "#c2410c", "#1d4ed8"  # told apart by the colour-blind too, and by line style
MAX_LABEL_CHARACTERS = 28
_CURVES = {
    "loss": "Loss",
    "top1": "Top-1 accuracy",
    "exact_match": "Clips with all labels right",
    "mae": "Mean absolute error",
    "frame_accuracy": "Frames with the right label",
    "word_accuracy": "Words said right, after the true ones before",
}

Bins = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def curves(history: Sequence[Mapping[str, float]], path: Path, *, figure: str = "top1") -> None:
    """Loss and a figure by epoch, as a PNG of 1200 x 480 pixels.

    ``history`` has one mapping per epoch with the keys ``epoch``, ``train_loss``, ``val_loss``, ``train_`` and ``val_`` with ``figure``, a
    share (``top1``, ``exact_match``) or an error (``mae``); a key that is missing in an epoch leaves a gap. Raises ValueError without any
    epoch.
    """
    if not history:
        raise ValueError("no epochs: expected at least one entry in the history")
    canvas = _figure(width=12, height=4.8)
    epochs = [entry["epoch"] for entry in history]
    for axes, measure in zip(canvas.subplots(1, 2), ("loss", figure), strict=True):
        for split, color, line in (("train", TRAIN_COLOR, "--"), ("val", VAL_COLOR, "-")):
            values = np.array([entry.get(f"{split}_{measure}", np.nan) for entry in history])
            axes.plot(epochs, values, line, color=color, label=split, marker="o" if len(epochs) <= 30 else None, markersize=3)
        _mark_best(axes, epochs, np.array([entry.get(f"val_{measure}", np.nan) for entry in history]), lowest=measure in ("loss", "mae"))
        axes.set_title(_CURVES[measure], loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        if measure not in ("loss", "mae"):
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _save(canvas, path)


def confusion_matrix(matrix: npt.NDArray[np.integer], labels: Sequence[str], path: Path) -> None:
    """Counts of true label (rows) against predicted label (columns), as a PNG that grows with the number of labels.

    ``matrix`` is (C, C) and not negative. Colour is the share of the row, so that rare labels can be read too; cells without a
    count are left blank. Raises ValueError where the shape does not fit the labels.
    """
    count = len(labels)
    if matrix.shape != (count, count) or count == 0:
        raise ValueError(f"confusion matrix of shape {matrix.shape} for {count} labels: expected ({count}, {count})")
    side = max(4.5, 2.2 + 0.42 * count)
    figure = _figure(width=side + 0.6, height=side)
    axes = figure.subplots()
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    names = [_shortened(label) for label in labels]
    axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(count), [f"{name} ({total})" for name, total in zip(names, totals[:, 0], strict=True)], parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (clips)")
    right = int(np.trace(matrix))
    axes.set_title(f"{right} of {matrix.sum()} right ({right / max(1, matrix.sum()):.1%})", loc="left", fontweight="bold")
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e2e8f0", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for row, column in np.argwhere(matrix > 0):
        dark = share[row, column] > 0.55
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color="white" if dark else "#0f172a")
    _save(figure, path)


def gradients(by_frame: Sequence[float], of_last: Sequence[float], by_layer: Mapping[str, float], path: Path) -> None:
    """Norms of gradients over time (the last but one frame last) and over layers, on logarithmic axes; a norm of 0 leaves a gap.

    ``by_frame`` is that of the loss with respect to the recurrent state after each frame, ``of_last`` the same for the loss of the last
    state alone, ``by_layer`` that of the loss with respect to each layer's parameters, from the input on. A PNG of 1200 pixels width.
    """
    figure = _figure(width=12, height=max(4.8, 1.2 + 0.22 * len(by_layer)))
    time, layers = figure.subplots(1, 2)
    before_last = np.arange(-len(by_frame), 0)
    for norms, color, line, label in ((by_frame, TRAIN_COLOR, "--", "loss"), (of_last, VAL_COLOR, "-", "loss of the last state alone")):
        marker = "o" if len(norms) <= 30 else None
        time.plot(before_last, _positive(norms), line, color=color, label=label, marker=marker, markersize=3)
    time.set_title("Gradient of the state after each frame", loc="left", fontweight="bold")
    time.set_xlabel("frame, counted from the last")
    time.set_ylabel("norm")
    time.xaxis.set_major_locator(MaxNLocator(integer=True))
    time.legend(frameon=False)
    layers.barh(range(len(by_layer)), _positive(list(by_layer.values())), color=VAL_COLOR, height=0.6)
    layers.set_yticks(range(len(by_layer)), list(by_layer))
    layers.invert_yaxis()
    layers.set_title("Gradient of each layer's weights", loc="left", fontweight="bold")
    if np.isfinite([*_positive(by_frame), *_positive(of_last)]).any():
        time.set_yscale("log")
    if np.isfinite(_positive(list(by_layer.values()))).any():
        layers.set_xscale("log")
    for axes in (time, layers):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def calibration(before: Bins, after: Bins, path: Path, *, errors: tuple[float, float], threshold: float | None) -> None:
    """How often labels of a confidence are right, before and after calibration, over how many clips; a PNG of 1200 x 520 pixels.

    ``before`` and ``after`` are (count, mean confidence, accuracy) by bin of confidence, ``errors`` the two expected calibration errors.
    ``threshold`` is the confidence from which on labels are accepted. Raises ValueError for bins of different number.
    """
    figure = _figure(width=12, height=5.2)
    rows = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    kinds = (("before", before, errors[0], TRAIN_COLOR), ("after", after, errors[1], VAL_COLOR))
    for (above, below), (name, (count, confidence, accuracy), error, color) in zip(rows.T, kinds, strict=True):
        if not len(count) == len(confidence) == len(accuracy):
            raise ValueError(f"{len(count)} counts, {len(confidence)} confidences, {len(accuracy)} accuracies: expected as many of each")
        above.plot([0, 1], [0, 1], ":", color="#64748b", label="as it should be")
        above.plot(confidence[count > 0], accuracy[count > 0], "-", color=color, linewidth=0.7, alpha=0.6)
        above.scatter(confidence[count > 0], accuracy[count > 0], 8 + 160 * count[count > 0] / count.max(), color=color, label="as it is")
        above.set_title(f"{name.capitalize()} calibration: error {error:.3f}", loc="left", fontweight="bold")
        above.yaxis.set_major_formatter(PercentFormatter(1.0))
        edges = np.linspace(0, 1, len(count) + 1)
        below.bar(edges[:-1], count, width=edges[1:] - edges[:-1], align="edge", color=color, edgecolor="white")
        below.set_xlabel("confidence")
        below.set_xlim(0, 1)
        for axes in (above, below):
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            if name == "after" and threshold is not None:
                axes.axvline(threshold, color="#0f172a", linewidth=1, label="accepted from here on")
        above.legend(frameon=False, loc="upper left")
    rows[0, 0].set_ylabel("right")
    rows[1, 0].set_ylabel("clips")
    _save(figure, path)


def accuracy_against_cost(
    *,
    names: Sequence[str],
    costs: Sequence[float],
    accuracies: Sequence[float],
    deviations: Sequence[float],
    cost_name: str,
    path: Path,
    measure: str = "top-1",
    is_share: bool = True,
) -> None:
    """One point a candidate, with a bar of one deviation up and down, as a PNG of 900 x 560 pixels; the legend begins with the best.

    Costs are positive; their axis is logarithmic. ``measure`` is what the accuracies are, as percentages if it ``is_share``.
    """
    figure = _figure(width=9, height=5.6)
    axes = figure.subplots()
    best_first = sorted(range(len(names)), key=lambda i: accuracies[i], reverse=is_share)
    for place, i in enumerate(best_first):
        color, marker = f"C{place % 10}", "osD^vP"[place // 10 % 6]
        axes.errorbar(costs[i], accuracies[i], yerr=deviations[i], fmt=marker, color=color, alpha=0.85, capsize=3, label=names[i])
    for text in figure.legend(loc="outside right upper", frameon=False).get_texts():
        text.set_parse_math(False)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    if is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(cost_name)
    axes.set_title(f"Validation {measure} against cost", loc="left", fontweight="bold")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _figure(*, width: float, height: float) -> Figure:
    """An empty figure with its own canvas; sizes in inches at 100 dots per inch."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():  # a letter that no font here has is drawn as an empty box
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, dpi=100)


def _mark_best(axes: Axes, epochs: Sequence[float], values: npt.NDArray[np.float64], *, lowest: bool) -> None:
    """A ring around the best epoch, with its value."""
    finite = np.isfinite(values)
    if not finite.any():
        return
    best = int(np.nanargmin(values) if lowest else np.nanargmax(values))
    axes.plot([epochs[best]], [values[best]], "o", markersize=9, fillstyle="none", color=VAL_COLOR)
    value = f"{values[best]:.3f}" if lowest else f"{values[best]:.1%}"
    axes.annotate(
        value, (epochs[best], values[best]), xytext=(0, 9 if lowest else -15), textcoords="offset points", ha="center", color=VAL_COLOR
    )


def _positive(norms: Sequence[float]) -> npt.NDArray[np.float64]:
    """What a logarithmic axis can show; the rest is not a number."""
    values = np.array(norms, dtype=np.float64)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _shortened(label: str) -> str:
    return label if len(label) <= MAX_LABEL_CHARACTERS else label[: MAX_LABEL_CHARACTERS - 1] + "…"
