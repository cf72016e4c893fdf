"""Shifts inside the encoder: against the paper's definition written block by block, and stepped as whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_recognizer import TINY, clips, recognizer, stepped
from torch import Tensor, nn

from reelscribe.models.backbone import RecognizerState
from reelscribe.models.encoders import build_encoder
from reelscribe.models.temporal_shift import branch_entries

LITE: dict[str, Any] = {**TINY, "encoder": "tf_efficientnet_lite0", "trainable_stages": 2}


def shifted_by_hand(x: Tensor) -> Tensor:
    """Frames of one clip (T, C, h, w): the first eighth of the channels one frame late, zeros at the first."""
    out = x.clone()
    few = -(-x.shape[1] // 8)
    out[0, :few] = 0
    for t in range(1, len(x)):
        out[t, :few] = x[t - 1, :few]
    return out


def test_a_resnet_is_shifted_in_its_branches_alone() -> None:
    torch.manual_seed(0)
    plain = build_encoder("resnet18", stride=8).eval()
    shifted = build_encoder("resnet18", stride=8, temporal_shift=True).eval()
    shifted.load_state_dict(plain.state_dict())  # the names are the same
    frames = clips(batch=2, frames=5)
    with torch.no_grad():
        got, carried = shifted.clips(frames)
        for clip, grid in zip(frames, got, strict=True):
            x = plain.body[0](plain._scale(clip))
            x = plain.body[1][0](x)  # the pooling before the first layer
            for block in (*plain.body[1][1], *plain.body[2]):
                identity = block.downsample(x) if block.downsample is not None else x
                branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(shifted_by_hand(x))))))
                x = block.relu(branch + identity)
            torch.testing.assert_close(grid, x, atol=1e-5, rtol=1e-5)
    assert [tuple(part.shape) for part in carried] == [(2, 1, 8, 8, 12)] * 3 + [(2, 1, 16, 4, 6)]
    assert repr(shifted) != repr(plain)  # and so are the digests of cached features


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet18"])
def test_frames_chunks_and_the_whole_are_one(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(recognizer(**{**LITE, "encoder": encoder, "temporal_shift": True})).eval()
    frames = clips(frames=7)
    with torch.no_grad():
        whole = model(frames, torch.full((3,), 7))
        for t, logits in enumerate(stepped(model, frames), start=1):
            torch.testing.assert_close(logits, model(frames[:, :t], torch.full((3,), t)), atol=1e-5, rtol=1e-5)
        state = None
        for chunk in frames.split([3, 1, 3], dim=1):
            logits, state = model.extend(chunk, state and RecognizerState.from_tensors(state.to_tensors()))
        torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-5)
        monkeypatch.setattr("reelscribe.models.encoders._PIXELS_AT_ONCE", {"cpu": 2 * 3 * 32 * 48})  # two frames of each clip at a time
        torch.testing.assert_close(model(frames, torch.full((3,), 7)), whole, atol=1e-5, rtol=1e-5)


def test_an_encoder_alone_tells_order() -> None:
    """What no pooling over frames can do without it."""
    frames, lengths = clips(), torch.full((3,), 7)
    for shift, differs in ((True, True), (False, False)):
        model = recognizer(**{**LITE, "recurrent": "mean", "motion": "none", "readout": "mean", "temporal_shift": shift}).eval()
        with torch.no_grad():
            change = (model(frames, lengths) - model(frames.flip(1), lengths)).abs().max()
        assert (change > 1e-4) == differs


def test_it_learns_through_the_shift() -> None:
    model = recognizer(**{**LITE, "temporal_shift": True})
    model(clips(), torch.tensor([7, 3, 2])).square().sum().backward()
    learning = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    assert learning
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learning)


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "timm/resnet18"]
)
def test_blocks_of_every_known_family_are_found(name: str) -> None:
    encoder = build_encoder(name, stride=16, temporal_shift=True).eval()
    entries = list(branch_entries(encoder.body))
    with torch.no_grad():
        _, carried = encoder.clips(clips(batch=1, frames=2, size=(64, 64)))
    assert len(carried) == len(entries) > 1
    assert [part.shape[2] for part in carried] == [-(-entry.in_channels // 8) for entry in entries]


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match=r"temporal_shift=True: this encoder has no residual blocks"):
        build_encoder("tiny", temporal_shift=True)
    encoder = build_encoder("tf_efficientnet_lite0", temporal_shift=True)
    assert isinstance(encoder, nn.Module)
    with pytest.raises(ValueError, match=r"temporal_shift=True takes frames in clips"):
        encoder(clips()[0])
