"""What a clip looks like, in 768 bits: copies of it, encoded again at another size or quality, differ in few of them.

Of eight frames over the clip, as grey pictures of 32 x 32, the 64 lowest spatial frequencies are taken (as in pHash; Zauner 2010), and of
each of these its four lowest frequencies over time (as in the 3D-DCT hash of Coskun, Sankur and Memon, IEEE Transactions on Multimedia 8,
2006). Each set of 64 gives 64 bits: above its median or not. The changes over time tell clips of one still camera apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.types import FrameSize, Uint8Array

FORMAT = "fingerprint 1"  # to be raised when the same clip gives other bits
SAMPLING = UniformSampling(num_frames=8)
SIZE = FrameSize(height=32, width=32)
BITS = 768
# Copies (half the size; 160 x 120 at 60 kbit/s; crf 38; 12 frames a second) of 80 real clips differ in at most 76 bits, of 40 drawn ones of
# 128 x 96 pixels in 4 cases more than 100. Different clips, among them many of one still camera, differ in at least 120 (58,000 pairs).
SAME_UP_TO = 100

_FREQUENCIES, _CHANGES = 8, 4
_BLOCK = 512  # clips against as many at a time: some megabytes

Fingerprint = npt.NDArray[np.uint64]  # (12,)
_Floats = npt.NDArray[np.float64]


def fingerprint(frames: Uint8Array) -> Fingerprint:
    """Eight RGB frames (8, 32, 32, 3) -> 768 bits as (12,) words."""
    if frames.shape != (SAMPLING.num_frames, SIZE.height, SIZE.width, 3):
        raise ValueError(f"frames of shape {frames.shape}: expected ({SAMPLING.num_frames}, {SIZE.height}, {SIZE.width}, 3)")
    grey = frames @ np.array([0.299, 0.587, 0.114])
    space = _cosines(SIZE.height, _FREQUENCIES)
    still = np.round(np.einsum("ay,tyx,bx->tab", space, grey, space), 2).reshape(len(frames), -1)  # (8, 64); a flat frame gives zeros
    change = np.round(_cosines(len(frames), 1 + _CHANGES)[1:] @ still, 2)  # (4, 64)
    spectra = np.concatenate([still, change])
    bits = spectra > np.median(spectra, axis=1, keepdims=True)
    return np.packbits(bits).view(np.uint64)


def similar(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], *, up_to: int = SAME_UP_TO) -> Iterator[tuple[int, int, int]]:
    """Pairs of fingerprints (N, 12) and (M, 12) that differ in at most ``up_to`` bits: (row of first, row of second, bits)."""
    for top in range(0, len(first), _BLOCK):
        for left in range(0, len(second), _BLOCK):
            a, b = first[top : top + _BLOCK], second[left : left + _BLOCK]
            distance = np.zeros((len(a), len(b)), dtype=np.uint16)
            for word in range(a.shape[1]):
                distance += np.bitwise_count(a[:, word, None] ^ b[None, :, word])
            for row, column in np.argwhere(distance <= up_to):
                yield top + int(row), left + int(column), int(distance[row, column])


def _cosines(length: int, count: int) -> _Floats:
    """The lowest ``count`` basis functions of the discrete cosine transform (type II) over ``length`` samples: (count, length)."""
    basis: _Floats = np.cos(np.pi * (2 * np.arange(length) + 1) * np.arange(count)[:, None] / (2 * length))
    return basis
