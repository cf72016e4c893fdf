"""Every error that ReelScribe raises on purpose.

ReelScribeError                       exit status 1: the job failed
├── UsageError                        exit status 2: a wrong command, file or name; nothing was done
│   ├── ConfigError                   a key, a value or the YAML of a config
│   ├── ManifestError                 a label file, with the line
│   ├── ModelError                    no such model, version, alias or run; a folder that holds no model
│   ├── QueryError                    the text of a registry query, with the position
│   ├── OutputConflictError           the output folder holds another job
│   └── ServiceUnavailableError       a tracking server or cluster that does not answer
├── StoppedError                      exit status 130: stopped by Ctrl-C or SIGTERM, in order
├── TrackingLostError                 a tracking server that was there when the work began, and then went away
├── PromotionError                    an alias was moved by somebody else meanwhile
├── TrainingError                     training cannot go on (a loss that is not finite, a dead worker)
└── VideoError                        this video cannot be used: one row in failures, never the end of a job
    ├── VideoNotFoundError            not_found
    ├── VideoPermissionError          permission
    ├── NotAVideoError                not_a_video
    ├── NoVideoStreamError            no_video_stream
    ├── EncryptedVideoError           encrypted
    ├── TruncatedVideoError           truncated
    ├── UnsupportedCodecError         unsupported_codec
    ├── VideoTooShortError            too_short
    ├── VideoTooLargeError            too_large
    ├── DecodeTimeoutError            timeout
    ├── DecoderCrashError             crashed
    ├── DecoderMemoryError            out_of_memory
    └── NetworkError                  network (worth another try)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ReelScribeError(Exception):
    """Base of all errors raised on purpose; its text is shown to the user as it is, without a traceback."""

    exit_status: ClassVar[int] = 1


class UsageError(ReelScribeError):
    """The command cannot be carried out as given."""

    exit_status = 2


class ConfigError(UsageError):
    """A config file or an override is wrong."""


class ManifestError(UsageError):
    """A label file is wrong."""


class ModelError(UsageError):
    """A model was asked for that does not exist or is not one of ours."""


class QueryError(UsageError):
    """A registry query does not parse or names an unknown field."""


class OutputConflictError(UsageError):
    """The output folder holds the results of a different job."""


class ServiceUnavailableError(UsageError):
    """A tracking server or a cluster does not answer."""


class StoppedError(ReelScribeError):
    """A person, or the cluster, asked to stop; what was done is kept."""

    exit_status = 130


class TrackingLostError(ReelScribeError):
    """A tracking server went away in mid-work; what was done is kept."""


class PromotionError(ReelScribeError):
    """An alias was moved by somebody else while it was decided where it goes."""


class TrainingError(ReelScribeError):
    """Training cannot go on."""


class VideoError(ReelScribeError):
    """A video cannot be used.

    ``failure`` is the class written to the failures table, ``advice`` says what a person can do about it, and
    ``retryable`` tells whether the same file may work a moment later.
    """

    failure: ClassVar[str] = "error"
    advice: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __reduce__(self) -> tuple[type[VideoError], tuple[str]]:
        """Cross a process boundary as class and text only."""
        return type(self), (str(self),)


class VideoNotFoundError(VideoError):
    """Nothing is stored under this path or URI."""

    failure = "not_found"
    advice = "check the path; a relative path is taken from the manifest's folder"


class VideoPermissionError(VideoError):
    """The file exists and may not be read."""

    failure = "permission"
    advice = "give this user read permission, or check the credentials of the store"


class NotAVideoError(VideoError):
    """No container format is recognized in the bytes, or the file is empty."""

    failure = "not_a_video"
    advice = "remove it from the input, or fetch it again"


class NoVideoStreamError(VideoError):
    """The container is sound and holds no picture (audio only, or headers only)."""

    failure = "no_video_stream"
    advice = "remove it from the input"


class EncryptedVideoError(VideoError):
    """The picture is encrypted."""

    failure = "encrypted"
    advice = "decrypt it first"


class TruncatedVideoError(VideoError):
    """The file ends, or turns to garbage, before the wanted frames."""

    failure = "truncated"
    advice = "fetch or record it again"


class UnsupportedCodecError(VideoError):
    """No reader here decodes this codec or pixel format."""

    failure = "unsupported_codec"
    advice = "convert it, e.g. ffmpeg -i IN -c:v libx264 OUT.mp4"


class VideoTooShortError(VideoError):
    """The clip is shorter than the sampling plan needs."""

    failure = "too_short"
    advice = "sample fewer frames or a smaller stride"


class VideoTooLargeError(VideoError):
    """More pixels or seconds than the limits allow."""

    failure = "too_large"
    advice = "scale it down, or cut it"


class DecodeTimeoutError(VideoError):
    """Decoding took longer than the limit and was killed."""

    failure = "timeout"
    advice = "raise the limit (--timeout, decode.timeout_s), or convert the file"
    retryable = True


class DecoderCrashError(VideoError):
    """The decoding process died on this file."""

    failure = "crashed"
    advice = "convert the file; it kills the native decoder"


class DecoderMemoryError(VideoError):
    """Decoding needed more memory than the limit."""

    failure = "out_of_memory"
    advice = "raise the limit (--memory-mb, decode.memory_mb), or scale the file down"


class NetworkError(VideoError):
    """A remote store did not answer or cut the connection."""

    failure = "network"
    advice = "try again: the same command goes on with what is missing"
    retryable = True


def failure_classes(text: str) -> frozenset[str]:
    """The classes of failures that ``timeout,network`` names; ``retryable`` stands for all that may work another time.

    Raises UsageError for a class that there is none of.
    """
    known = {kind.failure: kind for kind in VideoError.__subclasses__()}
    names = {name.strip() for name in text.split(",") if name.strip()}
    if "retryable" in names:
        names = names - {"retryable"} | {name for name, kind in known.items() if kind.retryable}
    for name in sorted(names - known.keys()):
        raise UsageError(f"there is no class of failures '{name}'{nearest(name, known)}; expected some of {', '.join(sorted(known))}")
    return frozenset(names)


def nearest(got: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the allowed word most like ``got``, or an empty string."""
    close = difflib.get_close_matches(got, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
