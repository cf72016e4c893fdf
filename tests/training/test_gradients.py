"""Where the gradient lives, in networks made to lose it, to blow it up, and to keep it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tiny_training import recognizer

from reelscribe.models.recognizer import Recognizer
from reelscribe.pipeline.training.steps.batches import Timed
from reelscribe.pipeline.training.steps.gradients import GradientHealth, gradient_health
from reelscribe.pipeline.training.steps.losses import ClipLoss, FrameLoss


def scaled(recurrent: str, factor: float, **keywords: object) -> Recognizer:
    """Recurrent weights ``factor`` times an orthogonal matrix."""
    model = recognizer(recurrent=recurrent, motion="none", **keywords)
    with torch.no_grad():
        for layer in model.recurrent.get_submodule("layers").children():
            layer.get_parameter("kernels.0.weight_hh_l0").mul_(factor)
    return model


def timed(frames: torch.Tensor) -> Timed:
    """A frame each half second."""
    return Timed(frames, torch.tensor([0.0, *[0.5] * (len(frames) - 1)]))


def measure(model: Recognizer, frames: int = 16, **keywords: int) -> GradientHealth:
    generator = torch.Generator().manual_seed(0)
    clips = [
        (timed(torch.randint(0, 255, (frames - i % 3, 3, 16, 16), dtype=torch.uint8, generator=generator)), torch.tensor([i % 2]))
        for i in range(4)
    ]
    return gradient_health(model, clips, ClipLoss(), **keywords)


@pytest.mark.parametrize("readout", ["last", "attention"])
def test_tiny_recurrent_weights_make_it_vanish(readout: str) -> None:
    health = measure(scaled("rnn_tanh", 0.1, readout=readout))
    assert health.reach < 1e-12
    assert health.live_frames < 6
    assert "vanishes: 15 frames before the last state" in health.warning
    assert "model.recurrent=gru" in health.warning


def test_large_recurrent_weights_make_it_explode() -> None:
    health = measure(scaled("rnn_tanh", 5.0))
    assert health.growth > 100
    assert "explodes" in health.warning
    assert "training.learning_rate" in health.warning


@pytest.mark.parametrize(("recurrent", "time_gaps"), [("gru", False), ("gru", True), ("lstm", False), ("rnn_tanh", False)])
def test_the_cores_as_they_start_keep_it(recurrent: str, time_gaps: bool) -> None:
    health = measure(recognizer(recurrent=recurrent, time_gaps=time_gaps))
    assert health.warning == ""
    assert 1e-3 < health.reach < 2
    assert health.live_frames == 15


def test_a_linear_recurrence_has_the_gradient_that_algebra_gives() -> None:
    """Near zero tanh is linear: U = 0.5 times an orthogonal matrix halves the gradient at every frame."""
    model = scaled("rnn_tanh", 0.5, readout="last")
    with torch.no_grad():
        model.recurrent.get_parameter("layers.0.kernels.0.weight_ih_l0").mul_(1e-4)
    norms = measure(model, frames=10).of_last[2:]  # all three clips have these lags
    assert [later / earlier for earlier, later in pairwise(norms)] == pytest.approx([2.0] * 6, rel=1e-3)


def test_with_the_last_state_as_readout_both_losses_are_one() -> None:
    health = measure(recognizer(readout="last"))
    assert health.by_frame == pytest.approx(health.of_last)
    assert measure(recognizer(readout="mean")).by_frame != pytest.approx(health.of_last)


def test_layers_have_the_gradient_of_the_mean_loss() -> None:
    model = recognizer(dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (3, 6, 3, 16, 16), dtype=torch.uint8, generator=generator)
    health = gradient_health(model, [(timed(clip), torch.tensor([i % 2])) for i, clip in enumerate(frames)], ClipLoss())
    assert all(parameter.grad is None for parameter in model.parameters())
    ClipLoss()(model(frames, torch.tensor([6, 6, 6])), torch.tensor([0, 1, 0])).mean().backward()
    core = torch.cat([parameter.grad.flatten() for parameter in model.recurrent.parameters() if parameter.grad is not None])
    assert health.by_layer["recurrent.layers.0"] == pytest.approx(core.norm().item(), rel=1e-4)
    assert health.by_layer["classifier"] == pytest.approx(
        math.hypot(*(parameter.grad.norm().item() for parameter in model.classifier.parameters() if parameter.grad is not None)), rel=1e-4
    )
    assert any(name.startswith("encoder.body") for name in health.by_layer)


def test_where_each_frame_has_a_label_the_loss_is_that_of_all_frames() -> None:
    model = recognizer(dropout=0.0, per_frame=True)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (3, 6, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 2, (3, 6), generator=generator)
    health = gradient_health(model, [(timed(clip), one[None]) for clip, one in zip(frames, labels, strict=True)], FrameLoss())
    FrameLoss()(model(frames, torch.tensor([6, 6, 6])), labels).mean().backward()
    core = torch.cat([parameter.grad.flatten() for parameter in model.recurrent.parameters() if parameter.grad is not None])
    assert health.by_layer["recurrent.layers.0"] == pytest.approx(core.norm().item(), rel=1e-4)
    assert health.live_frames == 5
    assert all(norm > 0 for norm in health.by_frame)


def test_a_chunk_is_as_far_as_truncation_lets_it_see() -> None:
    assert len(measure(recognizer(), max_frames=5).of_last) == 4


def test_one_frame_has_no_past_to_warn_of() -> None:
    health = measure(recognizer(), max_frames=1)
    assert health.of_last == ()
    assert health.warning == ""
    assert health.metrics["gradient/live_frames"] == 0


def test_the_network_is_left_as_it_was() -> None:
    model = recognizer().train()
    measure(model)
    assert model.training
    assert model.input_dropout.training


def test_numbers_that_overflow_are_an_explosion() -> None:
    health = GradientHealth(by_frame=(1.0, 1.0), of_last=(math.inf, 1.0), by_layer={})
    assert "explodes" in health.warning
