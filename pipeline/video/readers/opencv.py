"""OpenCV: decodes through from the start, as its seek by frame number is inexact (opencv/opencv#9053)."""

from __future__ import annotations

import os

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when OpenCV loads FFmpeg

import cv2
import numpy as np

from reelscribe.pipeline.errors import TruncatedVideoError, UnsupportedCodecError
from reelscribe.pipeline.video.containers.probe import Scan
from reelscribe.pipeline.video.scaling import scale, stack
from reelscribe.pipeline.video.types import ReaderName, Uint8Array

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class OpenCVReader:
    """Counts frames from the first one and stops at the last wanted."""

    name: ReaderName = "opencv"

    def read(self, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> Uint8Array:
        """See ``types.Reader``. Raises UnsupportedCodecError or TruncatedVideoError."""
        if scan.interlaced:  # it fails to convert them, says so on the console only, and returns memory that nobody has written
            raise UnsupportedCodecError(f"{scan.name}: OpenCV does not convert interlaced pictures")
        video = cv2.VideoCapture(scan.source.path(), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        try:
            if not video.isOpened():
                raise UnsupportedCodecError(f"{scan.name}: OpenCV does not open it")
            wanted, frames = set(indices), []
            for index in range(indices[-1] + 1):
                if not video.grab():
                    kind = TruncatedVideoError if index else UnsupportedCodecError
                    raise kind(f"{scan.name}: OpenCV finds {index} frames, wanted is frame {indices[-1]}")
                if index in wanted:
                    _check_time(video, scan, index)
                    frames.append(scale(_retrieve(video, scan, index), size))
            return stack(frames, path=scan.name)
        except cv2.error as error:
            raise UnsupportedCodecError(f"{scan.name}: OpenCV: {error.err}") from error
        finally:
            video.release()


def _check_time(video: cv2.VideoCapture, scan: Scan, index: int) -> None:
    """Raise TruncatedVideoError where the frame has another time than the one at this position: frames before it were dropped."""
    if not scan.timeline.recognizable:
        return
    expected = scan.timeline.seconds(index)
    got = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if abs(got - expected) > 0.002 and abs(got - (expected - scan.timeline.begin_s)) > 0.002:
        raise TruncatedVideoError(f"{scan.name}: OpenCV shows the frame of {got:.3f} s for frame {index} of {expected:.3f} s")


def _retrieve(video: cv2.VideoCapture, scan: Scan, index: int) -> Uint8Array:
    decoded, picture = video.retrieve()
    if not decoded:
        raise TruncatedVideoError(f"{scan.name}: OpenCV cannot convert frame {index}")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)
