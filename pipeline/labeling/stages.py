"""The two stages of labelling, and what passes between them. They know nothing of processes, queues or Ray: an engine places them.

    Video -> DecodeStage -> Decoded -> PredictStage -> Outcome

A stage is set up once per worker and then called with one batch after another. A video that cannot be used travels on as a value;
neither stage ever raises for one. Where a job labels windows, decoding makes of one video as many as it has windows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.errors import VideoError, VideoTooShortError
from reelscribe.pipeline.runtimes.names import Runtime
from reelscribe.pipeline.sampling import UniformSampling, Windows, plan_windows
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import Backend, DecodeLimits

if TYPE_CHECKING:
    from reelscribe.pipeline.answers import AnyPrediction
    from reelscribe.pipeline.runtimes.opening import AnyPredictor


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One row of the input, or one window of it."""

    position: int  # place in the job's input, from 0
    video_id: str
    uri: str
    start_s: float | None
    end_s: float | None
    window: int | None = None  # place among the windows of its row, from 0; None for a whole row
    num_windows: int = 1  # of its row


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """Why a video has no label."""

    failure: str
    cause: str
    advice: str
    retryable: bool

    @classmethod
    def of(cls, error: VideoError) -> Failed:
        """The failure that an error stands for."""
        return cls(failure=error.failure, cause=str(error), advice=error.advice, retryable=error.retryable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What the model says of a video, in the fields of its task, and which frames that rests on."""

    label: str | None = None
    confidence: float | None = None
    accepted: bool | None = None
    labels: tuple[str, ...] | None = None
    value: float | None = None
    segments: tuple[tuple[float, float, str, float], ...] | None = None  # start and end in seconds, label, confidence
    top_k: tuple[tuple[str, float], ...] | None = None
    scores: tuple[float, ...] | None = None
    frame_index: tuple[int, ...]  # all views in a row
    frame_time_s: tuple[float, ...]
    reader: str
    content_digest: str
    duration_s: float

    def __post_init__(self) -> None:
        if len(self.frame_index) != len(self.frame_time_s):
            raise ValueError(f"{len(self.frame_index)} frame indices and {len(self.frame_time_s)} times: expected as many of each")
        if self.label is None and self.labels is None and self.value is None and self.segments is None:
            raise ValueError("a label, labels, a value or segments: expected one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What decoding made of a video."""

    video: Video
    clip: Clip | Failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a video, and when."""

    video: Video
    result: Labelled | Failed
    unix_time_s: float


class DecodeStage:
    """Videos to frames, in sandboxed processes that a bad file cannot take down.

    ``workers`` decode processes; outputs come in order of completion. With ``windows``, a video gives one output for each of its
    windows; one that cannot be opened gives one.
    """

    def __init__(
        self, bundle: ModelBundle, *, backend: Backend, limits: DecodeLimits, workers: int, windows: Windows | None = None
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self.limits = limits
        self.workers = workers
        self.windows = windows
        self._pool: DecodePool | None = None

    def setup(self) -> None:
        """Start the decode processes."""
        self._pool = DecodePool(self.workers, self.limits).__enter__()

    def __call__(self, videos: Iterable[Video]) -> Iterator[Decoded]:
        """Decode a batch of any length; it is read only as far ahead as the processes need."""
        if self._pool is None:
            raise RuntimeError("DecodeStage was called before setup()")
        unopened: deque[Decoded] = deque()
        wanted = videos if self.windows is None else self._cut(self._pool, videos, self.windows, unopened)
        for video, clip in self._pool.map((video, self._request(video)) for video in wanted):
            while unopened:
                yield unopened.popleft()
            yield Decoded(video=video, clip=Failed.of(clip) if isinstance(clip, VideoError) else clip)
        yield from unopened

    def teardown(self) -> None:
        """Stop the decode processes."""
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None

    def _cut(self, pool: DecodePool, videos: Iterable[Video], windows: Windows, unopened: deque[Decoded]) -> Iterator[Video]:
        """Each window of each video. How long a video is, its first frame tells; one without goes to ``unopened``."""
        for video, first in pool.map((video, self._first_frame(video)) for video in videos):
            parts = first if isinstance(first, VideoError) else _windows_of(video, first.info.duration_s, windows)
            if isinstance(parts, VideoError):
                unopened.append(Decoded(video=video, clip=Failed.of(parts)))
            else:
                yield from parts

    def _first_frame(self, video: Video) -> ClipRequest:
        whole = self._request(video)
        return replace(whole, start_s=None, end_s=None, sampling=UniformSampling(num_frames=1), digest=False)

    def _request(self, video: Video) -> ClipRequest:
        return self.bundle.request(video.uri, video.start_s, video.end_s, backend=self.backend)


def _windows_of(video: Video, duration_s: float, windows: Windows) -> list[Video] | VideoTooShortError:
    """The windows of one row, whose own times may cut it out of a longer file; the failure where these lie outside the file."""
    try:
        end_s = duration_s if video.end_s is None else min(duration_s, video.end_s)
        spans = plan_windows(windows, start_s=video.start_s or 0.0, end_s=end_s)
    except VideoTooShortError as error:
        return VideoTooShortError(f"{video.uri}: {error}; the video has {duration_s:.3f} s")
    return [replace(video, start_s=start_s, end_s=end_s, window=i, num_windows=len(spans)) for i, (start_s, end_s) in enumerate(spans)]


class PredictStage:
    """Frames to labels. The network is loaded by ``setup``, so that an object of this class is small and quick to send.

    With ``scores``, what it says holds the probability of every class. The runtime is one that ``choose`` gave.
    """

    def __init__(self, bundle: ModelBundle, *, device: str, scores: bool = False, runtime: Runtime = "torch") -> None:
        self.bundle = bundle
        self.device = device
        self.scores = scores
        self.runtime = runtime
        self._predictor: AnyPredictor | None = None

    def setup(self) -> None:
        """Import what runs the network, and load it."""
        from reelscribe.pipeline.runtimes.opening import open_predictor

        self._predictor = open_predictor(self.bundle, runtime=self.runtime, device=self.device)

    def __call__(self, batch: Sequence[Decoded]) -> list[Outcome]:
        """One outcome per decoded video, in the same order; failures pass through."""
        if self._predictor is None:
            raise RuntimeError("PredictStage was called before setup()")
        clips = [decoded.clip for decoded in batch if isinstance(decoded.clip, Clip)]
        predictions = iter(self._predictor(clips))
        now = time.time()
        return [
            Outcome(
                video=decoded.video,
                result=decoded.clip if isinstance(decoded.clip, Failed) else self._labelled(decoded.clip, next(predictions)),
                unix_time_s=now,
            )
            for decoded in batch
        ]

    def _labelled(self, clip: Clip, prediction: AnyPrediction) -> Labelled:
        return Labelled(
            **answer_fields(prediction, scores=self.scores),
            frame_index=tuple(i for view in clip.views for i in view.index),
            frame_time_s=tuple(t for view in clip.views for t in view.pts_seconds),
            reader=clip.views[0].backend,
            content_digest=clip.digest,
            duration_s=clip.info.duration_s,
        )


def answer_fields(prediction: AnyPrediction, *, scores: bool) -> dict[str, Any]:
    """The fields of Labelled that hold a prediction."""
    from reelscribe.pipeline.answers import FramesPrediction, LabelsPrediction, Prediction, ValuePrediction

    match prediction:
        case Prediction():
            names = ["label", "confidence", "accepted", "top_k"]
        case LabelsPrediction():
            names = ["labels", "top_k"]
        case ValuePrediction():
            return {"value": prediction.value}
        case FramesPrediction():
            return {"segments": tuple(tuple(segment) for segment in prediction.segments)}
    answer = {name: getattr(prediction, name) for name in names}
    return answer | ({"scores": tuple(prediction.scores.tolist())} if scores else {})
