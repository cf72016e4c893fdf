"""A reader for decode workers that tells which modules its process has loaded."""

from __future__ import annotations

import sys

from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.clip import read_clip as honest_read_clip
from reelscribe.pipeline.video.types import DecodeLimits


def read_clip(request: ClipRequest, limits: DecodeLimits) -> Clip:
    honest_read_clip(request, limits)
    raise VideoError("loaded: " + " ".join(name for name in sys.modules if "." not in name))
