"""One battery over every registered core with every readout, the motions taking turns; then the whole recognizer."""

from __future__ import annotations

import copy
import inspect
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from reelscribe.models.backbone import ENCODER_INPUTS, POOLINGS, Backbone, RecognizerState
from reelscribe.models.encoders import build_encoder
from reelscribe.models.motion import MOTIONS
from reelscribe.models.readout import READOUTS
from reelscribe.models.recognizer import Recognizer
from reelscribe.models.recurrent import CORES

CLASSES = 5
TINY: dict[str, Any] = {
    "num_classes": CLASSES,
    "frame_size": (32, 48),
    "encoder": "tiny",
    "weights": "none",
    "stride": 8,
    "trainable_stages": 3,
    "projection": 6,
    "hidden_size": 12,
}
PAIRS = [(core, readout) for core, readout in itertools.product(CORES, READOUTS) if (core, readout) != ("mean", "last")]
COMBINATIONS = [(motion, *pair) for motion, pair in zip(itertools.cycle(MOTIONS), PAIRS, strict=False)]


def recognizer(**changes: Any) -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(**{**TINY, **changes})


def clips(batch: int = 3, frames: int = 7, size: tuple[int, int] = (32, 48)) -> Tensor:
    return torch.randint(0, 256, (batch, frames, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def stepped(model: Recognizer, frames: Tensor) -> list[Tensor]:
    """Logits after each frame."""
    state: RecognizerState | None = None
    out = []
    for frame in frames.unbind(1):
        logits, state = model.step(frame, state)
        out.append(logits)
    return out


@pytest.mark.parametrize(("motion", "core", "readout"), COMBINATIONS)
class TestEveryCombination:
    def test_finite_and_of_the_declared_shapes(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout)
        frames, lengths = clips(), torch.tensor([7, 3, 1])
        grid = model.encode(frames)
        assert grid.shape == (3, 7, model.encoder.channels, *model.grid_size)
        assert model.grid_size == (4, 6)
        states = model.forward_features(grid, lengths)
        assert states.shape == (3, 7, 12)
        logits = model.forward_head(states, lengths)
        assert logits.shape == (3, CLASSES)
        assert logits.isfinite().all()

    def test_every_trainable_parameter_gets_a_finite_gradient(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout, layers=2)
        loss = torch.nn.functional.cross_entropy(model(clips(), torch.tensor([7, 3, 2])), torch.tensor([0, 1, 2]))
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_stepped_equals_whole(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout, layers=2).eval()
        frames = clips(frames=9)
        with torch.no_grad():
            for t, logits in enumerate(stepped(model, frames), start=1):
                whole = model(frames[:, :t], torch.full((3,), t))
                torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-5)

    def test_chunks_of_any_size_equal_the_whole(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout).eval()
        frames = clips(frames=9)
        with torch.no_grad():
            whole = model(frames, torch.full((3,), 9))
            for sizes in ((4, 5), (1, 8), (2, 3, 4)):
                state = None
                for chunk in frames.split(list(sizes), dim=1):
                    logits, state = model.extend(chunk, state)
                torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-5)

    def test_padding_changes_nothing(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout).eval()
        frames, lengths = clips(), torch.tensor([7, 4, 1])
        with torch.no_grad():
            padded = model(frames, lengths)
            other = frames.clone()
            for row, length in enumerate(lengths):
                other[row, length:] = 255
            torch.testing.assert_close(model(other, lengths), padded, atol=1e-6, rtol=1e-5)
            for row, length in enumerate(lengths):
                alone = model(frames[row : row + 1, :length], lengths[row : row + 1])
                torch.testing.assert_close(alone[0], padded[row], atol=1e-5, rtol=1e-5)

    def test_padding_sends_no_gradient(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout).eval()
        grid = model.encode(clips()).detach().requires_grad_()
        lengths = torch.tensor([7, 4, 2])
        model.forward_head(model.forward_features(grid, lengths), lengths).square().sum().backward()
        assert grid.grad is not None
        for row, length in enumerate(lengths):
            assert grid.grad[row, length:].abs().sum() == 0
            assert grid.grad[row, :length].abs().sum() > 0

    def test_a_batch_equals_its_singles(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout).train()
        for module in model.modules():
            if isinstance(module, type(model.input_dropout)):
                module.rate = 0.0
        frames, lengths = clips(), torch.tensor([7, 7, 7])
        batch = model(frames, lengths)
        for row in range(3):
            torch.testing.assert_close(model(frames[row : row + 1], lengths[:1])[0], batch[row], atol=1e-5, rtol=1e-5)

    def test_saved_and_loaded_is_equal(self, motion: str, core: str, readout: str) -> None:
        model = recognizer(motion=motion, recurrent=core, readout=readout).eval()
        other = Recognizer(**{**TINY, "motion": motion, "recurrent": core, "readout": readout}).eval()
        other.load_state_dict(load(save({k: v.contiguous() for k, v in model.state_dict().items()})), strict=True)
        with torch.no_grad():
            assert torch.equal(other(clips(), torch.tensor([7, 3, 1])), model(clips(), torch.tensor([7, 3, 1])))


@pytest.mark.parametrize("encoder_input", ENCODER_INPUTS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("core", ["gru", "convgru"])
class TestInputsAndPoolings:
    def test_chunks_of_any_size_equal_the_whole(self, core: str, pooling: str, encoder_input: str) -> None:
        model = recognizer(encoder_input=encoder_input, pooling=pooling, recurrent=core).eval()
        frames = clips(frames=9)
        with torch.no_grad():
            each, _ = model.frame_logits(frames)
            torch.testing.assert_close(each[:, -1], model(frames, torch.full((3,), 9)), atol=1e-5, rtol=1e-5)
            for sizes in ((1,) * 9, (4, 5), (2, 3, 4)):
                state, begin = None, 0
                for chunk in frames.split(list(sizes), dim=1):
                    logits, _ = model.frame_logits(chunk, state)
                    torch.testing.assert_close(logits, each[:, begin : begin + chunk.shape[1]], atol=1e-5, rtol=1e-5)
                    logits, state = model.extend(chunk, state and RecognizerState.from_tensors(state.to_tensors()))
                    begin += chunk.shape[1]
                    torch.testing.assert_close(logits, each[:, begin - 1], atol=1e-5, rtol=1e-5)

    def test_every_trainable_parameter_gets_a_finite_gradient(self, core: str, pooling: str, encoder_input: str) -> None:
        model = recognizer(encoder_input=encoder_input, pooling=pooling, recurrent=core)
        torch.nn.functional.cross_entropy(model(clips(), torch.tensor([7, 3, 2])), torch.tensor([0, 1, 2])).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_an_encoder_of_changes_sees_nothing_of_a_still_clip() -> None:
    model = recognizer(encoder_input="changes").eval()
    still = clips(batch=2, frames=1).expand(-1, 4, -1, -1, -1)
    with torch.no_grad():
        grid = model.encode(still)
    torch.testing.assert_close(grid, grid[:1, :1].expand_as(grid))


def test_pooling_forgets_where_and_keeping_does_not() -> None:
    lengths = torch.full((3,), 7)
    for pooling, same in (("mean_max", True), ("none", False)):
        model = recognizer(pooling=pooling).eval()
        with torch.no_grad():
            grid = model.encode(clips())
            turned = grid.roll((1, 2), dims=(3, 4))
            logits, other = (model.forward_head(model.forward_features(g, lengths), lengths) for g in (grid, turned))
        assert torch.allclose(logits, other, atol=1e-5) == same


@pytest.mark.parametrize(("motion", "core"), [(m, "gru") for m in MOTIONS] + [("running_mean", c) for c in CORES if c != "gru"])
def test_overfits_one_batch(motion: str, core: str) -> None:
    model = recognizer(motion=motion, recurrent=core, dropout=0.0)
    frames, labels = clips(batch=6, frames=4), torch.tensor([0, 1, 2, 3, 4, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(frames, torch.full((6,), 4)), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1  # a guess gives ln 5 = 1.6


def test_a_spatial_core_may_keep_more_than_the_projection() -> None:
    model = recognizer(recurrent="convgru", layers=2, state_channels=9).eval()
    frames = clips()
    with torch.no_grad():
        logits, state = model.extend(frames)
        torch.testing.assert_close(stepped(model, frames)[-1], logits, atol=1e-5, rtol=1e-5)
    assert [part.shape for part in state.recurrent] == [(3, 9, 4, 6)] * 2


@pytest.mark.parametrize("core", CORES)
def test_order_matters_to_every_core_but_the_mean(core: str) -> None:
    model = recognizer(recurrent=core, motion="none", readout="mean").eval()
    frames, lengths = clips(), torch.full((3,), 7)
    with torch.no_grad():
        change = (model(frames, lengths) - model(frames.flip(1), lengths)).abs().max()
    assert change < 1e-6 if core == "mean" else change > 1e-4


def test_streams_go_on_in_another_process(tmp_path: Path) -> None:
    """Of every core; each state goes through a file, twice: there into another process, and back."""
    code = """
import sys, torch
from safetensors.torch import load_file, save_file
from reelscribe.models.recognizer import Recognizer, RecognizerState
torch.set_num_threads(1)
for core in sys.argv[1:]:
    given = torch.load(f"{core}.pt", weights_only=True)
    model = Recognizer(**given["keywords"]).eval()
    model.load_state_dict(given["weights"])
    with torch.inference_mode():
        logits, state = model.extend(given["frames"], RecognizerState.from_tensors(load_file(f"{core}.before")))
    save_file(state.to_tensors() | {"logits": logits}, f"{core}.after")
"""
    frames = clips(frames=6)
    models, expected = {}, {}
    for core in CORES:
        keywords = {**TINY, "recurrent": core, "layers": 2, "motion": "shift_difference"}
        models[core] = recognizer(**keywords).eval()
        with torch.inference_mode():
            expected[core] = models[core].frame_logits(frames)[0]
            _, state = models[core].extend(frames[:, :3])
        save_file(state.to_tensors(), tmp_path / f"{core}.before")
        torch.save({"keywords": keywords, "weights": models[core].state_dict(), "frames": frames[:, 3:5]}, tmp_path / f"{core}.pt")
    subprocess.run([sys.executable, "-c", code, *CORES], cwd=tmp_path, check=True)
    for core, model in models.items():
        after = load_file(tmp_path / f"{core}.after")
        torch.testing.assert_close(after.pop("logits"), expected[core][:, 4], atol=1e-5, rtol=1e-5)
        with torch.inference_mode():
            logits, _ = model.step(frames[:, 5], RecognizerState.from_tensors(after))
        torch.testing.assert_close(logits, expected[core][:, 5], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", READOUTS)
def test_ten_thousand_steps_stay_finite(readout: str) -> None:
    model = recognizer(readout=readout, frame_size=(8, 8), stride=2, trainable_stages=0, hidden_size=4).eval()
    frames = clips(batch=1, frames=500, size=(8, 8))
    state = None
    with torch.no_grad():
        for _ in range(20):
            logits, state = model.extend(frames, state)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("motion", "core", "readout"), COMBINATIONS)
def test_logits_of_all_frames_in_one_pass_are_those_of_steps(motion: str, core: str, readout: str) -> None:
    model = recognizer(motion=motion, recurrent=core, readout=readout, per_frame=True).eval()
    frames = clips(frames=9)
    with torch.no_grad():
        steps = torch.stack(stepped(model, frames), 1)
        whole = model(frames, torch.full((3,), 9))
        first, state = model.frame_logits(frames[:, :4])
        second, _ = model.frame_logits(frames[:, 4:], state)
    assert whole.shape == (3, 9, CLASSES)
    torch.testing.assert_close(whole, steps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat((first, second), 1), steps, atol=1e-5, rtol=1e-5)


def test_a_model_per_frame_learns_a_label_for_each_frame() -> None:
    model = recognizer(per_frame=True, readout="last", dropout=0.0)
    frames, labels = clips(batch=3, frames=5), torch.arange(15).view(3, 5) % CLASSES
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(frames, torch.full((3,), 5)).flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


class TestBothDirections:
    @pytest.mark.parametrize("core", [core for core in CORES if core != "mean"])
    def test_padding_and_neighbours_change_nothing(self, core: str) -> None:
        sizes = {"hidden_size": 16, "projection": 8}  # halves that four heads divide
        model = recognizer(recurrent=core, bidirectional=True, layers=2, **sizes).eval()
        frames, lengths = clips(), torch.tensor([7, 4, 1])
        with torch.no_grad():
            padded = model(frames, lengths)
            for row, length in enumerate(lengths):
                alone = model(frames[row : row + 1, :length], lengths[row : row + 1])
                torch.testing.assert_close(alone[0], padded[row], atol=1e-5, rtol=1e-5)

    def test_cannot_be_stepped(self) -> None:
        model = recognizer(bidirectional=True)
        assert not model.causal
        for call in (lambda: model.step(clips()[:, 0]), lambda: model.extend(clips()), lambda: model.frame_logits(clips())):
            with pytest.raises(ValueError, match=r"bidirectional.*cannot be stepped: train with bidirectional=False"):
                call()


@pytest.mark.parametrize("core", CORES)
def test_uneven_times_reach_the_core(core: str) -> None:
    model = recognizer(recurrent=core, time_gaps=True).eval()
    frames, lengths = clips(), torch.full((3,), 7)
    gaps = torch.rand(3, 7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        even = model(frames, lengths, torch.full((3, 7), 0.2))
        uneven = model(frames, lengths, gaps)
        state = None
        for frame, gap in zip(frames.unbind(1), gaps.unbind(1), strict=True):
            logits, state = model.step(frame, state, gap)
    assert (even - uneven).abs().max() > 1e-5
    torch.testing.assert_close(logits, uneven, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="needs gaps"):
        model(frames, lengths)
    with pytest.raises(ValueError, match="without time_gaps=True"):
        recognizer(recurrent=core)(frames, lengths, gaps)


@pytest.mark.parametrize("core", CORES)
def test_trains_in_bfloat16(core: str) -> None:
    model = recognizer(recurrent=core, layers=2, layer_norm=True)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(clips(), torch.tensor([7, 3, 2]))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        full = model.eval()(clips(), torch.tensor([7, 3, 2]))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(clips(), torch.tensor([7, 3, 2]))
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0)


def test_only_the_chosen_stages_learn() -> None:
    model = recognizer(trainable_stages=1)
    learning = {n.split(".")[1] for n, p in model.encoder.named_parameters() if p.requires_grad}
    assert learning == {"2"}
    model(clips(), torch.full((3,), 7)).sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert (parameter.grad is None) == name.startswith(("body.0", "body.1")), name


def test_frozen_grid_can_be_cached() -> None:
    model = recognizer(trainable_stages=0)
    grid = model.encode(clips())
    assert not grid.requires_grad
    lengths = torch.full((3,), 7)
    model.eval()
    torch.testing.assert_close(model.forward_head(model.forward_features(grid, lengths), lengths), model(clips(), lengths))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_grid_may_be_stored_in_half_precision(dtype: torch.dtype) -> None:
    model = recognizer(motion="running_mean").eval()
    lengths = torch.full((3,), 7)
    with torch.no_grad():
        grid = model.encode(clips())
        expected = model.forward_head(model.forward_features(grid, lengths), lengths)
        half = model.forward_head(model.forward_features(grid.to(dtype), lengths), lengths)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=2e-2, rtol=0)


def test_ranks_draw_the_masks_of_one_process() -> None:
    whole = recognizer(layers=2, dropout=0.5).train()
    frames, lengths = clips(batch=5), torch.full((5,), 7)
    torch.manual_seed(3)
    expected = whole(frames, lengths)
    after = torch.rand(1)
    for offset, rows in ((0, 3), (3, 2)):
        rank = copy.deepcopy(whole)
        rank.set_shard(offset, 5)
        torch.manual_seed(3)
        got = rank(frames[offset : offset + rows], lengths[:rows])
        assert torch.equal(torch.rand(1), after)
        torch.testing.assert_close(got, expected[offset : offset + rows], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="does not fit"):
        rank(frames, lengths)


def test_default_model_steps_as_it_sees_the_whole() -> None:
    torch.manual_seed(0)
    model = Recognizer(num_classes=11, frame_size=(64, 96)).eval()
    assert model.grid_size == (4, 6)
    assert model.encoder.channels == 112
    assert not any(p.requires_grad for p in model.encoder.parameters())
    frames = clips(batch=2, frames=5, size=(64, 96))
    with torch.no_grad():
        for t, logits in enumerate(stepped(model, frames), start=1):
            torch.testing.assert_close(logits, model(frames[:, :t], torch.full((2,), t)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recurrent": "grü"}, r"unknown recurrent core 'grü'; nearest: .*gru.* \(known: rnn_tanh, lstm, gru, convgru"),
        ({"recurrent": "mean", "readout": "last"}, r"readout='last': 'mean' has seen but one frame there; expected mean, max or attention"),
        ({"bidirectional": True, "readout": "last"}, r"readout='last': the half that reads from the end has seen but one frame"),
        ({"readout": "atention"}, r"unknown readout 'atention'; nearest: attention"),
        ({"motion": "diff"}, r"unknown motion 'diff'"),
        ({"encoder_input": "change"}, r"unknown encoder input 'change'; nearest: changes"),
        ({"pooling": "max"}, r"unknown pooling 'max'.*\(known: none, mean_max\)"),
        ({"encoder": "tinny"}, r"unknown encoder 'tinny'; nearest: tiny"),
        ({"weights": "package"}, r"'tiny' learns from scratch"),
        ({"stride": 64}, r"stride 64: this encoder has strides 2, 4, 8, 16"),
        ({"trainable_stages": 4}, r"trainable_stages=4: this encoder has 3 stages"),
        ({"state_channels": 8}, r"state_channels=8: 'gru' keeps no grid; its state has hidden_size=12"),
        ({"recurrent": "convgru", "state_channels": 0}, r"state_channels=0: expected at least 1"),
        ({"hidden_size": 0}, r"hidden_size=0: expected at least 1"),
        ({"layers": 0}, r"layers=0"),
        ({"dropout": 1.0}, r"dropout=1.0: expected 0 <= dropout < 1"),
    ],
)
def test_impossible_parameters_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recognizer(**change)


def test_wrong_frames_are_named() -> None:
    with pytest.raises(ValueError, match=r"frames are torch.float32 \(1, 2, 3, 32, 48\), expected uint8"):
        recognizer().encode(torch.zeros(1, 2, 3, 32, 48))


def test_tiny_encoder_is_a_debug_size_model() -> None:
    assert sum(p.numel() for p in recognizer().parameters()) < 10_000
    assert build_encoder("tiny", stride=16).channels == 32


def test_defaults_are_those_of_the_config() -> None:
    from reelscribe.pipeline.config import ModelConfig

    parameters = inspect.signature(Backbone).parameters
    for name, value in ModelConfig().model_dump().items():
        assert parameters[name].default == value, name


def test_the_config_knows_every_name() -> None:
    from reelscribe.pipeline.config import ModelConfig

    tables = {"recurrent": CORES, "motion": MOTIONS, "readout": READOUTS, "encoder_input": ENCODER_INPUTS, "pooling": POOLINGS}
    for field, table in tables.items():
        assert get_args(ModelConfig.model_fields[field].annotation) == tuple(table)
