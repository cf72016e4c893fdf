"""Fused layers against torch.nn, and how they start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reelscribe.models.layers.fused import FusedLayer, Gru, Lstm, RnnTanh
from reelscribe.models.recurrent import build_core

KERNELS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn_tanh": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
LAYERS: list[type[FusedLayer]] = [RnnTanh, Lstm, Gru]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", KERNELS)
def test_parity_with_torch(name: str, layers: int) -> None:
    torch.manual_seed(0)
    core = build_core(name, 7, 11, layers=layers, dropout=0.5).eval()
    reference = KERNELS[name](7, 11, num_layers=layers, batch_first=True)
    for i in range(layers):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            reference.get_parameter(f"{kind}_l{i}").data.copy_(core.get_parameter(f"layers.{i}.kernels.0.{kind}_l0"))
    x = torch.randn(4, 13, 7)
    y, state = core(x)
    expected, last = reference(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)
    parts = len(state) // layers
    for part, want in enumerate(last if isinstance(last, tuple) else (last,)):
        torch.testing.assert_close(torch.stack(state[part::parts]), want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_separate_kernels_of_torch(kind: type[FusedLayer], groups: int) -> None:
    torch.manual_seed(0)
    layer = kind(8, 16, groups=groups)
    separate = [layer.kernel(8 // groups, 16 // groups, batch_first=True) for _ in range(groups)]
    for i, reference in enumerate(separate):
        reference.load_state_dict(layer.kernels[i].state_dict())
    assert isinstance(layer.mix, nn.Linear)
    x, more = torch.randn(3, 9, 8), torch.randn(3, 4, 8)
    y, state = layer(x)
    rest, _ = layer(more, state)
    expected = torch.cat(
        [reference(torch.cat((x, more), 1)[..., i * 8 // groups : (i + 1) * 8 // groups])[0] for i, reference in enumerate(separate)], 2
    )
    torch.testing.assert_close(torch.cat((y, rest), 1), expected @ layer.mix.weight.T, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state[0], expected[:, 8], atol=1e-6, rtol=1e-5)


def test_groups_cost_less() -> None:
    whole, grouped = (sum(p.numel() for p in Gru(256, 256, groups=groups).parameters()) for groups in (1, 8))
    assert grouped < 0.3 * whole


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_weights_start_orthogonal(kind: type[FusedLayer]) -> None:
    kernel = kind(5, 8).kernels[0]
    for gate in kernel.get_parameter("weight_hh_l0").split(8):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
    assert kernel.get_parameter("bias_hh_l0").abs().sum() == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_lstm_starts_by_remembering(groups: int) -> None:
    size = 8 // groups
    for kernel in Lstm(8, 8, groups=groups).kernels:
        assert kernel.get_parameter("bias_ih_l0").tolist() == [0.0] * size + [1.0] * size + [0.0] * 2 * size


def test_rnn_tanh_starts_in_the_linear_part_of_tanh() -> None:
    torch.manual_seed(0)
    y, _ = RnnTanh(64, 64)(torch.randn(8, 16, 64))
    assert 0.05 < y[:, 0].std() < 0.2
    assert y.abs().max() < 0.99


def test_rnn_tanh_starts_with_a_memory_of_the_first_frame() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 32, 64, requires_grad=True)
    RnnTanh(64, 64)(x)[0][:, -1].square().sum().backward()
    assert x.grad is not None
    per_frame = x.grad.norm(dim=(0, 2))
    assert per_frame[0] / per_frame[-1] > 0.01  # with Xavier's input weights: 5e-7
