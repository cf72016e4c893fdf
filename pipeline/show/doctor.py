"""What the doctor found: of this machine, of videos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from reelscribe.pipeline.console import print_json, print_table, say

if TYPE_CHECKING:
    from reelscribe.pipeline.doctor import Check, VideoFacts
    from reelscribe.pipeline.video.types import Inspection


def environment(checks: list[Check], *, as_json: bool) -> bool:
    """What this machine has; returns whether nothing is missing that is needed."""
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        marks = ["ok" if check.ok else "!!" if check.needed else "--" for check in checks]
        print_table(["", "what", "found"], [(mark, check.name, check.detail) for mark, check in zip(marks, checks, strict=True)])
        say("\nok  works   --  is not there and not needed   !!  must be mended")
    return all(check.ok or not check.needed for check in checks)


def videos(found: list[VideoFacts], *, as_json: bool) -> bool:
    """One line a video: first those that can be used, then the others; returns whether all can be used."""
    bad = [facts for facts in found if not facts.ok]
    if as_json:
        print_json([asdict(facts) | {"ok": facts.ok} for facts in found])
        return not bad
    folder = _common_folder([facts.uri for facts in found])
    if folder:
        say(f"in {folder}\n")
    rows = [_video_row(facts.uri.removeprefix(folder), facts.inspection) for facts in found if facts.inspection is not None]
    if rows:
        print_table(["video", "codec", "size", "frames/s", "seconds", "frames", "keyframe gap", "readers differ", "notes"], rows)
        say("\nkeyframe gap: the longest between two; readers differ: by so many levels of 255 at most (-: only one reads it)\n")
    if bad:
        causes = [(f.uri.removeprefix(folder), f.failure, f.cause.removeprefix(f"{f.uri}: "), f.advice) for f in bad]
        print_table(["cannot be used", "class", "cause", "what to do"], causes)
        say("")
    classes = "".join(f", {count} {failure}" for failure, count in Counter(facts.failure for facts in bad).most_common())
    say(f"{len(found) - len(bad)} can be used, {len(bad)} cannot{classes.replace(',', ':', 1)}")
    return not bad


def _common_folder(uris: Sequence[str]) -> str:
    """The folder that several local files share, with a slash at its end; empty where there is none."""
    if len(uris) < 2 or not all(Path(uri).is_absolute() for uri in uris):
        return ""
    return os.path.join(os.path.commonpath([Path(uri).parent for uri in uris]), "")  # noqa: PTH118 - a Path has no slash at its end


def _video_row(name: str, seen: Inspection) -> tuple[object, ...]:
    info = seen.info
    return (
        name,
        info.codec,
        f"{info.width}x{info.height}" + (f" turned {info.rotation_degrees}°" if info.rotation_degrees else ""),
        f"{info.frame_rate:.2f}" + (" variable" if seen.variable_rate else ""),
        f"{info.duration_s:.2f}",
        info.num_frames,
        f"{seen.keyframe_gap_s:.2f} s",
        "-" if seen.largest_difference is None else f"{seen.largest_difference:.1f}",
        "; ".join(seen.remarks),
    )
