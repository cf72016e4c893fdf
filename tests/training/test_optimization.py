"""Rates of parameters and their course."""

from __future__ import annotations

import pytest
import torch
from tiny_training import CONFIG, recognizer

from reelscribe.pipeline.training.steps.optimization import Schedule, parameter_groups


def test_only_matrices_decay_and_each_stage_of_the_encoder_has_its_rate() -> None:
    model = recognizer()
    config = CONFIG.model_copy(update={"layer_decay": 0.5, "encoder_learning_rate": 1e-3})
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, config) for p in g["params"]}  # type: ignore[attr-defined]
    first, last = ({id(p) for p in level} for level in model.encoder.level_parameters())
    for name, parameter in model.named_parameters():
        lr, decay = rates[id(parameter)]
        expected = {True: 5e-4, False: 1e-3}[id(parameter) in first] if name.startswith("encoder.") else CONFIG.learning_rate
        assert name.startswith("encoder.") == (id(parameter) in first | last)
        assert lr == expected
        assert decay == (CONFIG.weight_decay if parameter.ndim > 1 else 0.0)


def test_what_is_frozen_is_in_no_group() -> None:
    model = recognizer(trainable_stages=1)
    held = [p for g in parameter_groups(model, CONFIG) for p in g["params"]]  # type: ignore[attr-defined]
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(held) < len(list(model.parameters()))


def test_a_plateau_cuts_the_rate_of_every_group_after_the_warm_up() -> None:
    """One step an epoch, two of warm-up; the figure never improves after epoch 3."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1e-2, 1e-3)]
    optimizer = torch.optim.SGD(groups, lr=1e-2)
    config = CONFIG.model_copy(
        update={"learning_rate": 1e-2, "warmup_epochs": 2, "schedule": "plateau", "plateau_factor": 0.5, "plateau_patience": 1}
    )
    schedule = Schedule(optimizer, config, steps_per_epoch=1)
    seen = []
    for loss in (9.0, 8.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        seen.append(schedule.learning_rate)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([seen[-1], seen[-1] / 10])
        optimizer.step()
        schedule.step()
        schedule.end_epoch(loss)
    assert seen == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3])


def test_a_score_on_a_plateau_is_one_that_does_not_rise() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    update = {"learning_rate": 1.0, "warmup_epochs": 0, "schedule": "plateau", "plateau_patience": 0, "monitor": "val_top1"}
    schedule = Schedule(optimizer, CONFIG.model_copy(update=update), steps_per_epoch=1)
    for score, rate in ((0.5, 1.0), (0.6, 1.0), (0.55, 0.3), (0.7, 0.3)):
        schedule.end_epoch(score)
        assert schedule.learning_rate == pytest.approx(rate)
