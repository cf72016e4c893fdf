"""minGRU and minLSTM against their equations written as a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reelscribe.models.layers.minimal import MinGru, MinimalLayer, MinLstm

X = torch.randn(2, 200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_definition(layer: MinimalLayer, x: Tensor) -> Tensor:
    """Equations of the paper (sections 3.1 and 3.2), frame by frame."""
    h = x.new_zeros(len(x), 4)
    out = []
    for x_t in x.unbind(1):
        *gates, candidate = (x_t @ layer.linear.weight.T + layer.linear.bias).split(4, 1)
        if isinstance(layer, MinGru):
            z = 1 / (1 + torch.exp(-gates[0]))
            h = (1 - z) * h + z * candidate
        else:
            f, i = (1 / (1 + torch.exp(-gate)) for gate in gates)
            h = f / (f + i) * h + i / (f + i) * candidate
        out.append(h)
    return torch.stack(out, 1)


@pytest.mark.parametrize("kind", [MinGru, MinLstm])
def test_scanned_and_stepped_are_the_equations(kind: type[MinimalLayer]) -> None:
    torch.manual_seed(0)
    layer = kind(5, 4).double()
    torch.nn.init.normal_(layer.linear.weight)
    expected = by_definition(layer, X)
    torch.testing.assert_close(layer(X)[0], expected, atol=1e-12, rtol=1e-12)
    state = None
    for t, x_t in enumerate(X.unbind(1)):
        y_t, state = layer.step(x_t, state)
        torch.testing.assert_close(y_t, expected[:, t], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", [MinGru, MinLstm])
def test_gradients_are_those_of_the_equations(kind: type[MinimalLayer]) -> None:
    torch.manual_seed(0)
    layer = kind(5, 4).double()
    parameters = list(layer.parameters())
    got = torch.autograd.grad(layer(X)[0].square().sum(), parameters)
    for ours, theirs in zip(got, torch.autograd.grad(by_definition(layer, X).square().sum(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", [MinGru, MinLstm])
def test_memories_start_from_two_frames_to_sixty_four(kind: type[MinimalLayer]) -> None:
    layer = kind(5, 9)
    nothing, one = torch.zeros(1, 5), torch.ones(1, 9)
    with torch.no_grad():
        kept = (layer.step(nothing, (one,))[0] - layer.step(nothing, (0 * one,))[0])[0]
    torch.testing.assert_close(1 / (1 - kept), 2 * 32 ** (torch.arange(9) / 8), atol=0, rtol=1e-3)
