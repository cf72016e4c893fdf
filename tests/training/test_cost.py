"""Costs against sums worked out by hand, and gradients against those of the whole sequence."""

from __future__ import annotations

import pytest
import torch

from reelscribe.models.recognizer import Recognizer
from reelscribe.models.recurrent import CORES
from reelscribe.pipeline.training.recipes.cost import LONGEST_LAG, Cost, gradient_lag, measure

HIDDEN, CHANNELS, CELLS, CLASSES = 12, 6, 4 * 6, 5
GATES = {"rnn_tanh": 1, "gru": 3, "lstm": 4}


def recognizer(recurrent: str, **changes: object) -> Recognizer:
    torch.manual_seed(0)
    settings: dict[str, object] = {"encoder": "tiny", "weights": "none", "stride": 8, "motion": "none", "readout": "last"}
    sizes: dict[str, object] = {"projection": CHANNELS, "hidden_size": HIDDEN, "num_classes": CLASSES, "frame_size": (32, 48)}
    return Recognizer(recurrent=recurrent, **(settings | sizes | changes))  # type: ignore[arg-type]


def cost(model: Recognizer, *, batch_size: int = 2, num_frames: int = 5) -> Cost:
    return measure(model, frame_size=(32, 48), batch_size=batch_size, num_frames=num_frames, device=torch.device("cpu"))


@pytest.mark.parametrize("recurrent", GATES)
def test_multiply_adds_and_parameters_of_the_head(recurrent: str) -> None:
    model = recognizer(recurrent)
    found = cost(model)
    products = (
        model.encoder.channels * CHANNELS * CELLS  # the projection, of every cell
        + CHANNELS * CELLS * HIDDEN  # the grid to a vector
        + GATES[recurrent] * 2 * HIDDEN * HIDDEN
        + HIDDEN * CLASSES
    )
    assert found.head_macs == products
    assert found.head_parameters == sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_multiply_adds_of_the_encoder() -> None:
    """Each convolution's weights are used once for each of its outputs."""
    model = recognizer("gru")
    products: list[int] = []
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, _, out: products.append(m.weight[0].numel() * out.numel()))
    model.encode(torch.zeros(1, 1, 3, 32, 48, dtype=torch.uint8))
    expected = sum(products)
    assert cost(model).encoder_macs == expected


def test_memory_grows_with_the_batch_and_with_an_encoder_that_learns() -> None:
    frozen, learning = recognizer("gru", trainable_stages=0), recognizer("gru", trainable_stages=3)
    weights = sum(p.numel() for p in learning.parameters()) * 4 * 4 / 1e6  # with gradients and two moments
    one, two = (cost(learning, batch_size=n).training_mb - weights for n in (1, 2))
    assert 0 < one < two <= 2 * one
    assert cost(frozen).training_mb < cost(learning).training_mb


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = recognizer("lstm").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert (cost(model).step_ms or 0) > 0
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("recurrent", CORES)
def test_every_core_has_a_cost_and_only_a_stream_has_a_step(recurrent: str) -> None:
    for both_ways in (False, True):
        if both_ways and recurrent in ("transformer", "mean"):
            continue
        found = cost(recognizer(recurrent, readout="attention", bidirectional=both_ways))
        assert found.head_macs > 0
        assert (found.step_ms is None) == (found.head_step_ms is None) == both_ways
        assert (found.gradient_lag == 0) == (recurrent == "mean")


def test_the_lag_of_a_recurrence_that_is_known() -> None:
    """Without inputs h_t = tanh(u h_{t-1}) stays near 0, where each step back multiplies the gradient by u: 0.5 ** 9 > 1e-3 > 0.5 ** 10."""
    model = recognizer("rnn_tanh")
    (kernel,) = model.recurrent.layers[0].kernels  # type: ignore[index, union-attr]
    grid = torch.zeros(1, model.encoder.channels, 4, 6)
    for decay, lag in ((0.5, 9), (0.9, 65), (1.0, LONGEST_LAG)):
        with torch.no_grad():
            kernel.weight_hh_l0.copy_(decay * torch.eye(HIDDEN))
            kernel.weight_ih_l0.fill_(1e-6)
        assert gradient_lag(model, grid) == lag


def test_a_core_that_is_told_of_time_costs_one_direction_more() -> None:
    plain, told = cost(recognizer("gru")), cost(recognizer("gru", time_gaps=True))
    assert told.parameters == plain.parameters + HIDDEN
    assert told.head_macs == plain.head_macs + HIDDEN
    assert told.step_ms
