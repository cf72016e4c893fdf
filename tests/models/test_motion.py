"""Motion at the input, against its definition written out in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reelscribe.models.motion import frame_changes

FRAMES = arrays.arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 5), st.just(3), st.just(2), st.just(4)))


@given(FRAMES, st.data())
def test_changes_are_those_since_the_frame_before_however_cut(frames: np.ndarray, data: st.DataObject) -> None:
    expected = np.full(frames.shape, 128)
    for t in range(1, frames.shape[1]):
        expected[:, t] = np.clip(128 + 3 * (frames[:, t].astype(int) - frames[:, t - 1].astype(int)), 0, 255)
    cut = data.draw(st.integers(0, frames.shape[1] - 1))
    given_frames = torch.from_numpy(frames)
    whole = frame_changes(given_frames)
    assert whole.dtype == torch.uint8
    assert np.array_equal(whole.numpy(), expected)
    if cut:
        later = frame_changes(given_frames[:, cut:], given_frames[:, cut - 1])
        assert torch.equal(later, whole[:, cut:])
