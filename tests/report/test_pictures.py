"""Pictures of a training run: what is in them, not only that there are some."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reelscribe.pipeline.report.pictures import accuracy_against_cost, calibration, confusion_matrix, curves, gradients


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def dark_blue(image: np.ndarray) -> np.ndarray:
    """Where the colour of a full cell is (the end of the map Blues: 8, 48, 107)."""
    return np.abs(image - np.array([8, 48, 107])).sum(axis=-1) < 12


def test_curves_are_drawn_for_any_number_of_epochs_and_with_gaps(tmp_path: Path) -> None:
    history = [
        {"epoch": float(e), "train_loss": 2 / e, "val_loss": 2.5 / e, "train_top1": 1 - 1 / e, "val_top1": 0.9 - 0.8 / e}
        for e in range(1, 41)
    ]
    curves(history, tmp_path / "long.png")
    curves(history[:1], tmp_path / "one.png")
    curves([*history[:3], {"epoch": 4.0, "train_loss": 1.0}, {"epoch": 5.0, "train_loss": float("nan")}], tmp_path / "gaps.png")
    for name in ("long", "one", "gaps"):
        image = pixels(tmp_path / f"{name}.png")
        assert image.shape == (480, 1200, 3)
        red, blue = (np.abs(image - np.array(color)).sum(axis=-1) < 40 for color in ((0xC2, 0x41, 0x0C), (0x1D, 0x4E, 0xD8)))
        for half in (np.s_[:, :600], np.s_[:, 600:]):  # both curves in both pictures
            assert red[half].sum() > 20
            assert blue[half].sum() > 20


def test_falling_loss_falls_in_the_picture(tmp_path: Path) -> None:
    curves([{"epoch": float(e), "val_loss": 3.0 - e / 10, "val_top1": e / 30} for e in range(31)], tmp_path / "x.png")
    blue = np.abs(pixels(tmp_path / "x.png") - np.array([0x1D, 0x4E, 0xD8])).sum(axis=-1) < 40
    rows = [np.nonzero(blue[60:440, column])[0] for column in (150, 300)]
    assert rows[0].mean() < rows[1].mean()  # rows count downwards
    rows = [np.nonzero(blue[60:440, column])[0] for column in (800, 950)]
    assert rows[0].mean() > rows[1].mean()


def test_curves_without_epochs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no epochs"):
        curves([], tmp_path / "x.png")


@pytest.mark.parametrize("count", [2, 11, 60])
def test_a_perfect_confusion_matrix_is_dark_on_its_diagonal_alone(tmp_path: Path, count: int) -> None:
    confusion_matrix(np.diag(np.arange(1, count + 1)), [f"label {i}" for i in range(count)], tmp_path / "x.png")
    image = pixels(tmp_path / "x.png")
    rows, columns = np.nonzero(dark_blue(image))
    assert np.corrcoef(rows, columns)[0, 1] > 0.7
    side = (rows.max() - rows.min()) / count
    assert side > 30  # a cell holds three digits at any number of labels
    assert len(rows) > 0.6 * count * side * side


def test_rows_are_the_truth_and_columns_the_prediction(tmp_path: Path) -> None:
    confusion_matrix(np.array([[0, 9], [0, 0]]), ["a", "b"], tmp_path / "x.png")
    image = pixels(tmp_path / "x.png")
    rows, columns = np.nonzero(dark_blue(image))
    grid_columns = np.nonzero((np.abs(image - np.array([247, 251, 255])).sum(axis=-1) < 6).any(axis=0))[0]  # the empty cells
    assert columns.mean() > grid_columns.min() + 0.5 * (np.ptp(grid_columns))  # true a, called b: upper right
    assert len(rows) > 0


def test_labels_of_any_script_and_with_dollar_signs_are_drawn_to_the_letter(tmp_path: Path) -> None:
    confusion_matrix(np.eye(3, dtype=int), ["$x^{", "動く", "a" * 90], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (0, 0)])
def test_a_matrix_that_does_not_fit_the_labels_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="confusion matrix of shape"):
        confusion_matrix(np.zeros(shape, dtype=int), ["a", "b"] if shape[0] else [], tmp_path / "x.png")


def test_a_gradient_that_falls_rises_in_the_picture_towards_the_last_frame(tmp_path: Path) -> None:
    carried = [10.0 ** (t - 15) for t in range(16)]
    gradients([1.0] * 16, carried, {"encoder": 1e-3, "recurrent": 1.0, "classifier": 0.1}, tmp_path / "x.png")
    image = pixels(tmp_path / "x.png")
    assert image.shape == (480, 1200, 3)
    red, blue = (np.abs(image[:, :600] - np.array(color)).sum(axis=-1) < 40 for color in ((0xC2, 0x41, 0x0C), (0x1D, 0x4E, 0xD8)))
    first, last = ({name: row_at(curve, end) for name, curve in (("red", red), ("blue", blue))} for end in (2, -3))
    assert first["blue"] > last["blue"] + 300  # rows count downwards
    assert abs(first["red"] - last["red"]) < 5
    assert abs(last["red"] - last["blue"]) < 25


def row_at(curve: np.ndarray, place: int) -> float:
    """The mean row of a curve in one of its columns."""
    columns = np.nonzero(curve.any(axis=0))[0]
    return float(np.nonzero(curve[:, columns[place]])[0].mean())


def test_gradients_of_no_size_at_all_or_of_any_leave_gaps(tmp_path: Path) -> None:
    gradients([], [], {"a": 0.0}, tmp_path / "none.png")
    gradients([0.0, 0.0], [0.0, 1e-44], {"a": 0.0, "b": 1e30}, tmp_path / "zero.png")
    gradients([float("inf"), 1.0], [float("nan"), 1.0], {f"layer {i}": 1.0 for i in range(60)}, tmp_path / "many.png")
    assert pixels(tmp_path / "many.png").shape[0] > 1000  # every name can be read


BLUE, ORANGE = np.array([0x1D, 0x4E, 0xD8]), np.array([0xC2, 0x41, 0x0C])


def bins(accuracy: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of five bins, the first without clips."""
    return np.array([0, 4, 9, 2, 30]), np.array([np.nan, 0.3, 0.5, 0.7, 0.9]), np.array([np.nan, *accuracy])


def test_overconfidence_lies_below_the_diagonal_and_calibration_lifts_it(tmp_path: Path) -> None:
    before, after = bins([0.05, 0.1, 0.3, 0.5]), bins([0.3, 0.5, 0.7, 0.9])
    calibration(before, after, tmp_path / "x.png", errors=(0.3, 0.0), threshold=0.8)
    image = pixels(tmp_path / "x.png")
    assert image.shape == (520, 1200, 3)
    left, right = (np.abs(half[60:330] - color).sum(axis=-1) < 40 for half, color in ((image[:, 80:600], ORANGE), (image[:, 680:], BLUE)))
    assert np.nonzero(left)[0].mean() > np.nonzero(right)[0].mean() + 30  # rows count downwards
    calibration(before, after, tmp_path / "y.png", errors=(0.3, 0.0), threshold=None)
    assert not np.array_equal(pixels(tmp_path / "y.png"), image)


def test_bins_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 counts, 5 confidences"):
        calibration((np.ones(4, int), np.ones(5), np.ones(5)), bins([0, 0, 0, 0]), tmp_path / "x.png", errors=(0, 0), threshold=None)


def test_dear_is_right_and_good_is_high(tmp_path: Path) -> None:
    def draw(costs: list[float], accuracies: list[float]) -> tuple[float, float]:
        """Middle of the points, (row, column)."""
        accuracy_against_cost(
            names=["a", "b"], costs=costs, accuracies=accuracies, deviations=[0.0, 0.0], cost_name="multiply-adds", path=tmp_path / "x.png"
        )
        image = pixels(tmp_path / "x.png")
        assert image.shape == (560, 900, 3)
        middle = image[65:500, 70:].astype(int)  # below the legend all but the points is grey
        rows, columns = np.nonzero(middle.max(axis=-1) - middle.min(axis=-1) > 60)
        left = columns < columns.mean()
        return rows[left].mean(), rows[~left].mean()

    cheap, dear = draw([1e5, 1e9], [0.5, 0.9])
    assert cheap > dear
    cheap, dear = draw([1e9, 1e5], [0.5, 0.9])
    assert cheap < dear


def test_pyplot_and_its_global_state_are_never_loaded() -> None:
    code = "import sys, reelscribe.pipeline.report.pictures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
