"""Cores: whole, in chunks and stepped alike, in constant memory; and the options that all of them share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reelscribe.models.recurrent import CORES, OWN_OPTIONS, RecurrentCore, State, build_core

OPTIONS: list[dict[str, Any]] = [{}, {"layers": 2}, {"layers": 3, "layer_norm": True, "residual": True, "time_gaps": True}]
PAGE = os.sysconf("SC_PAGE_SIZE")


def core_of(name: str, **options: Any) -> RecurrentCore:
    torch.manual_seed(0)
    return build_core(name, 8, 8, **options).eval()


def sequence(core: RecurrentCore, frames: int, batch: int = 2) -> Tensor:
    shape = (batch, frames, 8, 3, 4) if core.spatial else (batch, frames, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def gaps_of(core: RecurrentCore, frames: int, batch: int = 2) -> Tensor | None:
    return torch.rand(batch, frames, generator=torch.Generator().manual_seed(2)) if core.gap is not None else None


def in_chunks(core: RecurrentCore, x: Tensor, sizes: list[int]) -> tuple[Tensor, State | None]:
    gaps = gaps_of(core, x.shape[1])
    state: State | None = None
    out = []
    begin = 0
    for chunk in x.split(sizes, dim=1):
        end = begin + chunk.shape[1]
        y, state = core(chunk, state, gaps=None if gaps is None else gaps[:, begin:end])
        out.append(y)
        begin = end
    return torch.cat(out, 1), state


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CORES)
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_chunks_of_any_size_give_the_whole(name: str, options: dict[str, Any], sizes: list[int]) -> None:
    core = core_of(name, **options)
    x = sequence(core, sum(sizes))
    with torch.no_grad():
        whole, last = core(x, gaps=gaps_of(core, sum(sizes)))
        chunks, state = in_chunks(core, x, sizes)
    assert whole.shape == x.shape
    torch.testing.assert_close(chunks, whole, atol=1e-5, rtol=1e-5)
    for got, want in zip(state or (), last, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CORES)
def test_steps_give_the_whole(name: str, options: dict[str, Any]) -> None:
    core = core_of(name, **options)
    x = sequence(core, 80)  # longer than the transformer's window
    gaps = gaps_of(core, 80)
    state: State | None = None
    steps = []
    with torch.no_grad():
        whole, last = core(x, gaps=gaps)
        for t, x_t in enumerate(x.unbind(1)):
            y_t, state = core.step(x_t, state, gap=None if gaps is None else gaps[:, t])
            steps.append(y_t)
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5, rtol=1e-5)
    for got, want in zip(state or (), last, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CORES)
def test_nothing_later_is_seen(name: str) -> None:
    core = core_of(name, layers=2)
    assert core.causal
    x = sequence(core, 10)
    changed = x.clone()
    changed[:, 6:] += 1
    with torch.no_grad():
        before, after = core(x)[0], core(changed)[0]
    assert torch.equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
@pytest.mark.parametrize("name", CORES)
def test_a_hundred_thousand_frames_take_no_memory(name: str) -> None:
    core = core_of(name)
    chunk = sequence(core, 100, batch=1)

    def run(state: State | None, *, chunks: int, steps: int) -> State:
        with torch.inference_mode():
            for _ in range(chunks):
                _, state = core(chunk, state)
            for _ in range(steps):
                y_t, state = core.step(chunk[:, 0], state)
        assert y_t.isfinite().all()
        return state or ()

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    state = run(None, chunks=20, steps=200)
    shapes, before = [part.shape for part in state], resident_bytes()
    state = run(state, chunks=970, steps=3000)
    assert [part.shape for part in state] == shapes
    assert resident_bytes() - before < 8e6  # as little as 80 bytes a frame kept would be more


# ------------------------------------------------------------------------------------------------------------------------ options


def test_dropout_between_layers_holds_over_time() -> None:
    torch.manual_seed(0)
    core = build_core("rnn_tanh", 4, 64, layers=2, dropout=0.5).train()
    kept: list[Tensor] = []
    core.layers[1].register_forward_hook(lambda _module, inputs, _output: kept.append(inputs[0] != 0))
    core(torch.randn(3, 9, 4))
    assert (kept[0] == kept[0][:, :1]).all()
    assert 0.3 < kept[0].float().mean() < 0.7
    assert not (kept[0][0, 0] == kept[0][1, 0]).all()


def test_dropout_of_a_grid_takes_whole_channels() -> None:
    torch.manual_seed(0)
    core = build_core("convgru", 4, 64, layers=2, dropout=0.5).train()
    kept: list[Tensor] = []
    core.layers[1].register_forward_hook(lambda _module, inputs, _output: kept.append(inputs[0] != 0))
    core(torch.randn(3, 5, 4, 3, 4))
    assert (kept[0] == kept[0][:, :1, :, :1, :1]).all()
    assert 0.3 < kept[0].float().mean() < 0.7


def test_layer_norm_is_that_of_torch() -> None:
    plain, normed = core_of("gru"), core_of("gru", layer_norm=True)
    x = sequence(plain, 5)
    torch.testing.assert_close(normed(x)[0], torch.nn.functional.layer_norm(plain(x)[0], (8,)), atol=1e-5, rtol=1e-5)


def test_residual_adds_what_the_second_layer_reads() -> None:
    plain, residual = core_of("gru", layers=2), core_of("gru", layers=2, residual=True)
    x = sequence(plain, 5)
    first, _ = plain.layers[0](x)
    torch.testing.assert_close(residual(x)[0], plain(x)[0] + first)


@pytest.mark.parametrize("name", [name for name in CORES if name != "mean"])
def test_one_half_of_a_bidirectional_core_reads_from_the_end(name: str) -> None:
    core = core_of(name, bidirectional=True)
    x, lengths = sequence(core, 6), torch.tensor([6, 4])
    with torch.no_grad():
        y, state = core(x, lengths=lengths)
        for row, length in enumerate(lengths):
            clip = x[row : row + 1, :length]
            torch.testing.assert_close(y[row, :length, :4], core.layers[0](clip)[0][0], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(y[row, :length, 4:], core.from_end[0](clip.flip(1))[0][0].flip(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(core(x[:1])[0], y[:1])
    assert state == ()
    assert not core.causal


def test_a_longer_gap_goes_further() -> None:
    core = core_of("gru", time_gaps=True)
    read: list[Tensor] = []
    core.layers[0].register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0]))
    core(torch.zeros(1, 3, 8), gaps=torch.tensor([[0.0, 1.0, 3.0]]))
    assert read[0][0, 0].abs().sum() == 0
    torch.testing.assert_close(read[0][0, 2], 2 * read[0][0, 1])  # log 4 = 2 log 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grü", {}, r"unknown recurrent core 'grü'"),
        ("gru", {"layers": 0}, r"layers=0: expected at least 1"),
        ("gru", {"residual": True}, r"residual=True: expected layers of at least 2"),
        ("mean", {"bidirectional": True}, r"bidirectional=True: 'mean' knows no order"),
        ("mingru", {"groups": 2}, r"groups=2: 'mingru' has no such option, only rnn_tanh, lstm, gru"),
        ("gru", {"context": 8}, r"context=8: 'gru' has no such option, only transformer"),
        ("gru", {"groups": 3}, r"groups=3: expected a number that divides input_size=8"),
        ("gru", {"groups": -1}, r"groups=-1: expected a number that divides"),
        ("transformer", {"context": 0}, r"context=0: expected at least 1 frame"),
        ("transformer", {"bidirectional": True, "hidden_size": 12}, r"hidden size 6: attention has 4 heads, expected a multiple of 4"),
        ("gru", {"bidirectional": True, "hidden_size": 7}, r"bidirectional=True: expected an even size .*, got 7"),
        ("gru", {"dropout": 1.0}, r"dropout=1.0"),
    ],
)
def test_impossible_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    hidden_size = options.pop("hidden_size", 8)
    with pytest.raises(ValueError, match=message):
        build_core(name, 8, hidden_size, **options)


def test_a_bidirectional_core_cannot_go_on() -> None:
    core = core_of("gru", bidirectional=True)
    calls: list[Callable[[], object]] = [lambda: core.step(torch.zeros(1, 8)), lambda: core(torch.zeros(1, 2, 8), (torch.zeros(1, 4),))]
    for call in calls:
        with pytest.raises(ValueError, match="cannot be stepped"):
            call()


def test_every_own_option_is_taken_by_its_cores() -> None:
    for option, names in OWN_OPTIONS.items():
        for name in names:
            build_core(name, 8, 8, **{option: 2})
