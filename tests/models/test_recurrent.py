"""Cores against torch.nn, and how they start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reelscribe.models.recurrent import CORES, build_core

KERNELS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn_tanh": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", KERNELS)
def test_parity_with_torch(name: str, layers: int) -> None:
    torch.manual_seed(0)
    core = build_core(name, 7, 11, layers=layers, dropout=0.5).eval()
    reference = KERNELS[name](7, 11, num_layers=layers, batch_first=True)
    for i in range(layers):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            reference.get_parameter(f"{kind}_l{i}").data.copy_(core.get_parameter(f"layers.{i}.{kind}_l0"))
    x = torch.randn(4, 13, 7)
    y, state = core(x)
    expected, last = reference(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)
    for got, want in zip(state, last if isinstance(last, tuple) else (last,), strict=True):
        assert got.shape == (layers, 4, 11)
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", CORES)
def test_whole_chunks_and_steps_agree(name: str, layers: int) -> None:
    torch.manual_seed(0)
    core = build_core(name, 5, 8, layers=layers).eval()
    x = torch.randn(2, 40, 5)
    whole, last = core(x)
    state, chunks = None, []
    for chunk in x.split([1, 7, 32], dim=1):
        y, state = core(chunk, state)
        chunks.append(y)
    torch.testing.assert_close(torch.cat(chunks, 1), whole, atol=1e-6, rtol=1e-5)
    state, steps = None, []
    for x_t in x.unbind(1):
        y_t, state = core.step(x_t, state)
        steps.append(y_t)
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-6, rtol=1e-5)
    assert state is not None
    for got, want in zip(state, last, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CORES)
def test_causal(name: str) -> None:
    core = build_core(name, 5, 8).eval()
    assert core.causal
    x = torch.randn(2, 10, 5)
    changed = x.clone()
    changed[:, 6:] += 1
    before, after = core(x)[0], core(changed)[0]
    assert torch.equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any()


@pytest.mark.parametrize("name", KERNELS)
def test_recurrent_weights_start_orthogonal(name: str) -> None:
    core = build_core(name, 5, 8, layers=2)
    for i in range(2):
        for gate in core.get_parameter(f"layers.{i}.weight_hh_l0").split(8):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
        assert core.get_parameter(f"layers.{i}.bias_hh_l0").abs().sum() == 0


def test_lstm_starts_by_remembering() -> None:
    core = build_core("lstm", 5, 8)
    assert core.get_parameter("layers.0.bias_ih_l0").tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16


def test_dropout_between_layers_holds_over_time() -> None:
    torch.manual_seed(0)
    core = build_core("rnn_tanh", 4, 64, layers=2, dropout=0.5).train()
    kept: list[torch.Tensor] = []
    core.get_submodule("layers.1").register_forward_hook(lambda _module, inputs, _output: kept.append(inputs[0] != 0))
    core(torch.randn(3, 9, 4))
    assert (kept[0] == kept[0][:, :1]).all()
    assert 0.3 < kept[0].float().mean() < 0.7
    assert not (kept[0][0, 0] == kept[0][1, 0]).all()


def test_rnn_tanh_starts_in_the_linear_part_of_tanh() -> None:
    torch.manual_seed(0)
    core = build_core("rnn_tanh", 64, 64)
    y, _ = core(torch.randn(8, 16, 64))
    assert 0.05 < y[:, 0].std() < 0.2
    assert y.abs().max() < 0.99


def test_rnn_tanh_starts_with_a_memory_of_the_first_frame() -> None:
    torch.manual_seed(0)
    core = build_core("rnn_tanh", 64, 64)
    x = torch.randn(8, 32, 64, requires_grad=True)
    core(x)[0][:, -1].square().sum().backward()
    assert x.grad is not None
    per_frame = x.grad.norm(dim=(0, 2))
    assert per_frame[0] / per_frame[-1] > 0.01  # with Xavier's input weights: 5e-7
