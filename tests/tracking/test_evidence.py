"""The statistics of a promotion: against scipy and scikit-learn, and their rate of error over simulated test sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score, recall_score

from reelscribe.pipeline.tracking.evidence import Indices, Metric, bootstrap, class_losses, discordant, mcnemar, score

CLASSES = 4
three_answers = st.lists(st.tuples(*[st.integers(0, CLASSES - 1)] * 3), min_size=2, max_size=60).map(
    lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True))
)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    p = mcnemar(gained, lost)
    assert p == pytest.approx(binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0, rel=1e-9)
    assert mcnemar(gained + 1, lost) <= p <= mcnemar(gained, lost + 1) <= 1


def test_mcnemar_of_a_published_table() -> None:
    """Agresti, Categorical Data Analysis, approval of the prime minister: 86 and 150 changed their minds."""
    assert mcnemar(150, 86) == pytest.approx(binomtest(150, 236, alternative="greater").pvalue)
    assert mcnemar(0, 0) == 1
    with pytest.raises(ValueError, match="counts"):
        mcnemar(-1, 2)


@given(three_answers)
def test_scores_are_those_of_scikit_learn(data: tuple[Indices, ...]) -> None:
    truth, first, second = data
    assert score(truth, first, "top1", CLASSES) == pytest.approx((truth == first).mean())
    assert score(truth, first, "macro_f1", CLASSES) == pytest.approx(f1_score(truth, first, average="macro", zero_division=0))
    gained, lost = discordant(truth, first, second)
    gain = score(truth, second, "top1", CLASSES) - score(truth, first, "top1", CLASSES)
    assert gain == pytest.approx((gained - lost) / len(truth))
    labels = sorted(set(truth.tolist()))
    recalls = recall_score(truth, second, labels=labels, average=None, zero_division=0)
    assert [after for _, after, _ in class_losses(truth, first, second).values()] == pytest.approx(recalls.tolist())


@given(three_answers, st.sampled_from(["top1", "macro_f1"]))
def test_the_bootstrap_is_fair(data: tuple[Indices, ...], metric: Metric) -> None:
    truth, first, second = data
    gain, p = bootstrap(truth, first, second, metric=metric, num_classes=CLASSES, resamples=50, seed=1)
    back, _ = bootstrap(truth, second, first, metric=metric, num_classes=CLASSES, resamples=50, seed=1)
    assert gain == -back
    assert 0 < p <= 1
    assert bootstrap(truth, first, first, metric=metric, num_classes=CLASSES, resamples=50, seed=1) == (0, 1)


def test_a_clip_without_an_answer_is_wrong() -> None:
    truth, none = np.array([0, 1, 1]), np.array([0, -1, 1])
    assert score(truth, none, "top1", 2) == pytest.approx(2 / 3)
    assert score(truth, none, "macro_f1", 2) == pytest.approx((1 + 2 * 1 / (2 + 1)) / 2)
    assert discordant(truth, none, truth) == (1, 0)


def simulated(rng: np.random.Generator, accuracy: tuple[float, float], clips: int = 120) -> tuple[Indices, Indices, Indices]:
    """Truth and the answers of two models of known accuracy, which find the same clips hard."""
    truth = rng.integers(CLASSES, size=clips)
    hardness = rng.random(clips)
    sides = []
    for share in accuracy:
        right = 0.5 * hardness + 0.5 * rng.random(clips) < np.quantile(0.5 * rng.random(20_000) + 0.5 * rng.random(20_000), share)
        sides.append(np.where(right, truth, (truth + rng.integers(1, CLASSES, size=clips)) % CLASSES))
    return truth, sides[0], sides[1]


@pytest.mark.parametrize(("worse_by", "level"), [(0.0, 0.05), (0.0, 0.2), (0.05, 0.05)])
def test_wrong_promotions_by_mcnemar_over_200_test_sets(worse_by: float, level: float) -> None:
    rng = np.random.default_rng(5)
    sets = [simulated(rng, (0.8, 0.8 - worse_by)) for _ in range(200)]
    assert np.mean([mcnemar(*discordant(*one)) <= level for one in sets]) <= level


def test_wrong_promotions_by_bootstrap_over_200_test_sets() -> None:
    rng = np.random.default_rng(6)
    sets = [simulated(rng, (0.8, 0.8)) for _ in range(200)]
    for metric in ("top1", "macro_f1"):
        p = [bootstrap(*one, metric=metric, num_classes=CLASSES, resamples=200, seed=i)[1] for i, one in enumerate(sets)]
        assert np.mean(np.array(p) <= 0.05) <= 0.05


def test_a_better_model_is_promoted_more_often_than_not() -> None:
    rng = np.random.default_rng(7)
    sets = [simulated(rng, (0.75, 0.88), clips=200) for _ in range(200)]
    assert np.mean([mcnemar(*discordant(*one)) <= 0.05 for one in sets]) > 0.9
