"""Damaged video files from a seed: bits flipped, bytes overwritten, blanked, taken out, repeated or pushed in, cut, and spliced."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path


def damage(data: bytes, chance: random.Random, *, other: bytes) -> bytes:
    """``data`` with one kind of damage; ``other`` is what it may go on with after a splice."""
    new, at = bytearray(data), chance.randrange(len(data))
    match chance.choice(["flip", "overwrite", "blank", "cut", "take out", "repeat", "push in", "splice"]):
        case "flip":
            for _ in range(chance.choice([1, 3, 10, 50])):
                new[chance.randrange(len(new))] ^= 1 << chance.randrange(8)
        case "overwrite":
            for _ in range(chance.choice([1, 2, 5])):
                new[chance.randrange(len(new))] = chance.randrange(256)
        case "blank":
            end = min(len(new), at + chance.randrange(1, 200))
            new[at:end] = bytes(end - at)
        case "cut":
            del new[at:]
        case "take out":
            del new[at : chance.randrange(at, len(new))]
        case "repeat":
            new[at:at] = new[at : at + chance.randrange(1, 500)]
        case "push in":
            new[at:at] = chance.randbytes(chance.randrange(1, 50))
        case "splice":
            new[at:] = other[chance.randrange(len(other)) :]
    return bytes(new)


def damaged_files(originals: Sequence[Path], folder: Path, *, count: int, seed: int) -> Iterator[Path]:
    """Write ``count`` damaged files to ``folder``, one when it is asked for; number and original are in the name.

    What becomes of number i depends on the seed and on i alone.
    """
    contents = {path: data for path in originals if (data := path.read_bytes())}
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        original, other = chance.choices(list(contents), k=2)
        path = folder / f"{number}-{original.name}"
        path.write_bytes(damage(contents[original], chance, other=contents[other]))
        yield path
