"""The loss against torch's module and against scikit-learn's class weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from reelscribe.pipeline.training.steps.losses import IGNORED, ClipLoss, FrameLoss, MultiLabelLoss, ValueLoss, balanced_weights


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    targets = [0, 0, 0, 0, 1, 2, 2, 0]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(targets))
    weights = balanced_weights(targets, 3)
    assert weights.tolist() == pytest.approx(expected.tolist())
    assert weights[torch.tensor(targets)].mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0])])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_shares_of_one_class_are_that_class(weights: torch.Tensor | None, smoothing: float) -> None:
    logits, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    loss = ClipLoss(label_smoothing=smoothing, class_weights=weights)
    hard = loss(logits, targets)
    assert hard.shape == (6,)
    torch.testing.assert_close(loss(logits, torch.nn.functional.one_hot(targets).float()), hard)
    module = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(hard.sum(), module(logits, targets))


def test_a_blend_of_classes_costs_the_blend_of_their_losses() -> None:
    logits = torch.randn(1, 3)
    loss = ClipLoss(label_smoothing=0.1)
    both = 0.3 * loss(logits, torch.tensor([0])) + 0.7 * loss(logits, torch.tensor([2]))
    torch.testing.assert_close(loss(logits, torch.tensor([[0.3, 0.0, 0.7]])), both)


def test_half_precision_logits_lose_nothing_more() -> None:
    logits = torch.randn(4, 3).bfloat16()
    assert ClipLoss()(logits, torch.zeros(4, dtype=torch.long)).dtype == torch.float32


def test_the_loss_of_several_labels_is_that_of_torch_with_its_targets_smoothed() -> None:
    logits, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24).reshape(6, 4) % 3 == 0
    expected = torch.nn.BCEWithLogitsLoss()(logits, torch.where(targets, 0.95, 0.05))
    assert MultiLabelLoss(label_smoothing=0.1)(logits, targets.long()).mean().item() == pytest.approx(expected.item())
    assert MultiLabelLoss().score(torch.tensor([[3.0, -1], [2, 1]]), torch.tensor([[1, 0], [1, 0]])).tolist() == [1, 0]


def test_the_loss_of_a_value_does_not_depend_on_its_unit() -> None:
    logits, metres = torch.tensor([[0.5], [-3.0]]), torch.tensor([2.0, 4.0])
    one = ValueLoss(mean=3.0, deviation=2.0)
    assert one(logits, metres).tolist() == pytest.approx([0.5, 3.0])  # at 1 and 3.5 deviations: both in the linear part
    assert one.score(logits, metres).tolist() == [2.0, 7.0]
    assert ValueLoss(mean=300.0, deviation=200.0)(logits, 100 * metres).tolist() == pytest.approx([0.5, 3.0])


def test_the_loss_of_frames_is_the_mean_over_those_of_each_clip() -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2, 0, 1, 2], [1, 1, IGNORED, IGNORED, IGNORED, IGNORED]])  # a longer clip was cut off the batch
    expected = [cross_entropy(logits[0], targets[0, :5]).item(), cross_entropy(logits[1, :2], targets[1, :2]).item()]
    assert FrameLoss()(logits, targets).tolist() == pytest.approx(expected)
    right = logits[1, :2].argmax(dim=1) == 1
    assert FrameLoss().score(logits, targets)[1].item() == right.float().mean().item()
