"""The attention layer against its equations for each frame alone, and its window."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from reelscribe.models.layers.attention import WindowAttention


def by_definition(layer: WindowAttention, x: Tensor) -> Tensor:
    """One clip (T, input) -> (T, hidden), query by query and head by head."""
    weights = layer.state_dict()
    embedded = linear(x, weights["embed.weight"], weights["embed.bias"])
    size = embedded.shape[1]
    normed = layer_norm(embedded, (size,))
    q, k, v = linear(normed, weights["queries_keys_values.weight"], weights["queries_keys_values.bias"]).split(size, 1)
    rows = []
    for t in range(len(x)):
        first = max(0, t - layer.context + 1)
        heads = []
        for head in range(4):
            part = slice(head * size // 4, (head + 1) * size // 4)
            lags = torch.arange(t - first, -1, -1)
            scores = k[first : t + 1, part] @ q[t, part] / (size // 4) ** 0.5 + weights["lag_bias"][head, lags]
            heads.append(torch.softmax(scores, 0) @ v[first : t + 1, part])
        y = embedded[t] + linear(torch.cat(heads), weights["mix.weight"], weights["mix.bias"])
        inner = gelu(linear(layer_norm(y, (size,)), weights["feed_forward.1.weight"], weights["feed_forward.1.bias"]))
        rows.append(y + linear(inner, weights["feed_forward.3.weight"], weights["feed_forward.3.bias"]))
    return torch.stack(rows)


def test_parity_with_a_plain_loop() -> None:
    torch.manual_seed(0)
    layer = WindowAttention(5, 8, context=4).double()
    torch.nn.init.normal_(layer.lag_bias)
    x = torch.randn(2, 11, 5, dtype=torch.float64)
    with torch.no_grad():
        y, _ = layer(x)
        for row in range(2):
            torch.testing.assert_close(y[row], by_definition(layer, x[row]), atol=1e-10, rtol=1e-10)


def test_sees_no_further_than_its_window() -> None:
    torch.manual_seed(0)
    layer = WindowAttention(5, 8, context=4)
    x = torch.randn(1, 11, 5, requires_grad=True)
    layer(x)[0][0, 9].sum().backward()
    assert x.grad is not None
    assert [bool(g.abs().sum() > 0) for g in x.grad[0]] == [False] * 6 + [True] * 4 + [False]


def test_a_window_of_one_frame_is_itself_alone() -> None:
    torch.manual_seed(0)
    layer = WindowAttention(5, 8, context=1)
    x = torch.randn(2, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], layer(x.flatten(0, 1)[:, None])[0].view(2, 6, 8), atol=1e-6, rtol=1e-5)


def test_streams_of_different_age_run_in_one_batch() -> None:
    torch.manual_seed(0)
    layer = WindowAttention(5, 8, context=4)
    x = torch.randn(2, 6, 5)
    with torch.no_grad():
        _, old = layer(x[:1, :5])
        _, young = layer(x[1:, 3:5])
        together = tuple(torch.cat(parts) for parts in zip(old, young, strict=True))
        y, _ = layer.step(x[:, 5], together)
        torch.testing.assert_close(y[0], layer(x[:1])[0][0, -1], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(y[1], layer(x[1:, 3:])[0][0, -1], atol=1e-6, rtol=1e-5)
