"""The convolutional GRU against its equations, written cell by cell."""

from __future__ import annotations

import torch
from torch import Tensor

from reelscribe.models.layers.convgru import ConvGru
from reelscribe.models.layers.fused import Gru


def convolved(weight: Tensor, bias: Tensor, grid: Tensor) -> Tensor:
    """(out, in, 3, 3), (out,), (in, h, w) -> (out, h, w): a sum over neighbours, zeros outside."""
    out = torch.zeros(len(weight), *grid.shape[1:], dtype=grid.dtype)
    for y in range(grid.shape[1]):
        for x in range(grid.shape[2]):
            out[:, y, x] = bias
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < grid.shape[1] and 0 <= x + dx < grid.shape[2]:
                        out[:, y, x] += weight[:, :, dy + 1, dx + 1] @ grid[:, y + dy, x + dx]
    return out


def test_parity_with_a_plain_loop() -> None:
    torch.manual_seed(0)
    layer = ConvGru(2, 3).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    clip = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    h = torch.zeros(3, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        got, (last,) = layer(clip[None])
        for t, frame in enumerate(clip):
            of_x = convolved(layer.input.weight, layer.get_parameter("input.bias"), frame)
            of_h = convolved(layer.recurrent.weight, layer.get_parameter("recurrent.bias"), h)
            r, z = torch.sigmoid(of_x[:3] + of_h[:3]), torch.sigmoid(of_x[3:6] + of_h[3:6])
            h = (1 - z) * torch.tanh(of_x[6:] + r * of_h[6:]) + z * h
            torch.testing.assert_close(got[0, t], h, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(last[0], h, atol=1e-10, rtol=1e-10)


def test_on_one_cell_it_is_a_gru() -> None:
    torch.manual_seed(0)
    layer, gru = ConvGru(5, 6), Gru(5, 6)
    kernel = gru.kernels[0]
    for convolution, name in ((layer.input, "ih"), (layer.recurrent, "hh")):
        kernel.get_parameter(f"weight_{name}_l0").data.copy_(convolution.weight[:, :, 1, 1])
    x = torch.randn(2, 9, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x[..., None, None])[0].flatten(2), gru(x)[0], atol=1e-6, rtol=1e-5)


def test_starts_without_blurring() -> None:
    layer = ConvGru(2, 4)
    for gate in layer.recurrent.weight.split(4):
        torch.testing.assert_close(gate[:, :, 1, 1] @ gate[:, :, 1, 1].T, torch.eye(4), atol=1e-5, rtol=0)
    assert layer.recurrent.weight.count_nonzero() == 3 * 16
