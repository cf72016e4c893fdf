"""Long clips in chunks: whose loss counts how much, which gradients there are, and what is held in memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import CONFIG, recognizer

from reelscribe.pipeline.training.steps.batches import Batch
from reelscribe.pipeline.training.steps.losses import IGNORED, ClipLoss, FrameLoss
from reelscribe.pipeline.training.steps.passes import ArrayNetwork, Passes, chunks

GAPS = torch.rand(3, 48, generator=torch.Generator().manual_seed(1))  # seconds


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), size=st.integers(0, 45))
def test_chunks_cover_every_frame_and_weights_add_up_to_one(lengths: list[int], size: int) -> None:
    plan = chunks(torch.tensor(lengths), size)
    assert sum(chunk.weights for chunk in plan).tolist() == pytest.approx([1.0] * len(lengths))  # type: ignore[union-attr]
    for i, length in enumerate(lengths):
        inside = [chunk for chunk in plan if chunk.weights[i] > 0]
        assert sum(int(chunk.lengths[i]) for chunk in inside) == length
        ends = [chunk.frames.start + int(chunk.lengths[i]) for chunk in inside]
        ratios = [float(chunk.weights[i]) / end for chunk, end in zip(inside, ends, strict=True)]
        assert ratios == pytest.approx([ratios[0]] * len(ratios))  # the weight grows with the frames seen
        assert all(int(chunk.lengths[i]) >= 1 for chunk in plan)
    shares = torch.stack([chunk.weights for chunk in chunks(torch.tensor(lengths), size, per_frame=True)])
    seen = [[float(chunk.lengths[i]) if chunk.weights[i] > 0 else 0.0 for i in range(len(lengths))] for chunk in plan]
    torch.testing.assert_close(shares, torch.tensor(seen) / torch.tensor(lengths))
    if not size or size >= max(lengths):
        (one,) = plan
        assert one.lengths.tolist() == lengths
        assert one.weights.tolist() == [1.0] * len(lengths)


def gradients(
    frames: torch.Tensor, lengths: list[int], tbptt_frames: int, **keywords: object
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = recognizer(**keywords)
    config = CONFIG.model_copy(update={"tbptt_frames": tbptt_frames})
    batch = Batch(inputs=frames, lengths=torch.tensor(lengths), targets=torch.tensor([0, 1, 1]), gaps=GAPS, offset=0, total=3)
    sums = Passes(ArrayNetwork(model), model, ClipLoss(), config, torch.device("cpu"))(batch, scale=1.0, seed=5)
    return sums, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def clips(frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (3, frames, 3, 16, 16), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("readout", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
def test_chunks_give_the_loss_of_the_whole_clip_so_far(readout: str, recurrent: str) -> None:
    """Two chunks of 4 against the loss of whole clips of 4 and of 8 frames, in the shares 1/3 and 2/3; clips of 3 and 6 end before."""
    frames, keywords = clips(8), {"readout": readout, "recurrent": recurrent, "layers": 2}
    chunked, _ = gradients(frames, [8, 3, 6], 4, **keywords)
    model = recognizer(**keywords).train()
    losses = []
    for lengths in ([4, 3, 4], [8, 3, 6]):
        torch.manual_seed(5)
        model.set_shard(0, 3)
        with torch.no_grad():
            losses.append(ClipLoss()(model(frames, torch.tensor(lengths)), torch.tensor([0, 1, 1])))
    shares = torch.tensor([[4 / 12, 0.0, 4 / 10], [8 / 12, 1.0, 6 / 10]])
    assert chunked[0].item() == pytest.approx((shares * torch.stack(losses)).sum().item(), rel=1e-5)


def test_one_chunk_has_the_gradient_of_the_whole_and_short_ones_another() -> None:
    frames = clips(8)
    whole, long, short = (gradients(frames, [8, 3, 6], size)[1] for size in (0, 8, 4))
    assert whole.keys() == long.keys() == short.keys()
    assert all(torch.equal(whole[name], long[name]) for name in whole)
    assert not torch.allclose(whole["recurrent.layers.0.kernels.0.weight_hh_l0"], short["recurrent.layers.0.kernels.0.weight_hh_l0"])


@pytest.mark.parametrize("time_gaps", [False, True])
def test_no_gradient_crosses_a_chunk(time_gaps: bool) -> None:
    """The second chunk alone, started from the state after the first, has the gradient that it adds."""
    frames = clips(8)
    keywords = {"readout": "last", "dropout": 0.0, "time_gaps": time_gaps}
    gaps = (GAPS[:, :4], GAPS[:, 4:8]) if time_gaps else (None, None)
    _, both = gradients(frames, [8, 8, 8], 4, **keywords)
    expected: dict[str, torch.Tensor] = {}
    model = recognizer(**keywords).train()
    with torch.no_grad():
        _, state = model.extend(frames[:, :4], None, gaps[0])
    for share, frames_of_chunk, start, between in ((1 / 3, frames[:, :4], None, gaps[0]), (2 / 3, frames[:, 4:], state, gaps[1])):
        model.zero_grad()
        logits, _ = model.extend(frames_of_chunk, start, between)
        (share * ClipLoss()(logits, torch.tensor([0, 1, 1])).sum()).backward()
        for name, parameter in model.named_parameters():
            expected[name] = expected.get(name, 0) + parameter.grad  # type: ignore[operator]
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("readout", ["last", "attention"])
def test_a_label_for_each_frame_has_its_loss_in_its_own_chunk(readout: str) -> None:
    """So that chunks add up to loss and score of the whole clip, and differ from it only in how far gradients reach."""
    frames, lengths = clips(8), torch.tensor([8, 3, 6])
    targets = torch.randint(0, 2, (3, 8), generator=torch.Generator().manual_seed(2))
    targets[torch.arange(8) >= lengths[:, None]] = IGNORED
    found = []
    for size in (0, 8, 4, 3):
        model = recognizer(per_frame=True, readout=readout, dropout=0.0)
        batch = Batch(inputs=frames, lengths=lengths, targets=targets, gaps=GAPS[:, :8], offset=0, total=3)
        passes = Passes(ArrayNetwork(model), model, FrameLoss(), CONFIG.model_copy(update={"tbptt_frames": size}), torch.device("cpu"))
        found.append((passes(batch, scale=1.0, seed=5), model.recurrent.get_parameter("layers.0.kernels.0.weight_hh_l0").grad))
    (sums, whole), (_, one_chunk), *shorter = found
    assert torch.equal(whole, one_chunk)
    for other, short in shorter:
        torch.testing.assert_close(other, sums, atol=1e-5, rtol=1e-5)
        assert short.isfinite().all()
        assert not torch.allclose(whole, short)


def test_memory_does_not_grow_with_the_clip() -> None:
    """The bytes that autograd holds at one time."""

    def most_held(frames: int, tbptt_frames: int) -> int:
        held, most = 0, 0

        class Saved:
            def __init__(self, tensor: torch.Tensor) -> None:
                nonlocal held, most
                self.tensor = tensor
                size = tensor.numel() * tensor.element_size()
                held += size
                most = max(most, held)
                weakref.finalize(self, release, size)

        def release(size: int) -> None:
            nonlocal held
            held -= size

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            gradients(clips(frames), [frames] * 3, tbptt_frames)
        return most

    assert most_held(48, 6) < 1.3 * most_held(6, 0)
    assert most_held(48, 0) > 5 * most_held(6, 0)


def test_dropout_has_one_mask_for_all_chunks() -> None:
    """With the frames all alike and the readout of the mean, other masks in the second chunk would give another loss."""
    frames = clips(1).expand(-1, 8, -1, -1, -1)
    seeds = []
    model = recognizer(dropout=0.5, motion="none")
    module = model.input_dropout
    module.register_forward_hook(lambda _, inputs, output: seeds.append(((inputs[0] != 0) & (output == 0)).all(dim=1)))
    config = CONFIG.model_copy(update={"tbptt_frames": 4})
    batch = Batch(inputs=frames, lengths=torch.tensor([8, 8, 8]), targets=torch.tensor([0, 1, 1]), gaps=GAPS, offset=0, total=3)
    Passes(ArrayNetwork(model.train()), model, ClipLoss(), config, torch.device("cpu"))(batch, scale=1.0, seed=5)
    assert len(seeds) == 2
    assert seeds[0].any()
    assert torch.equal(seeds[0], seeds[1])
