"""Labels for a few videos at once, without a job."""

from __future__ import annotations

from dataclasses import dataclass

from reelscribe.pipeline.answers import AnyPrediction
from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.console import note
from reelscribe.pipeline.labeling.stages import Decoded, DecodeStage, Failed, Video
from reelscribe.pipeline.labeling.subtitling import places_beside, write_beside
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.runtimes.choice import choose
from reelscribe.pipeline.runtimes.names import RuntimeChoice
from reelscribe.pipeline.runtimes.opening import AnyPredictor, open_predictor
from reelscribe.pipeline.sampling import Windows
from reelscribe.pipeline.subtitles import SubtitleFormat
from reelscribe.pipeline.tracking.registry import fetch_model


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one video, or of one window of it."""

    video: Video
    outcome: AnyPrediction | Failed
    duration_s: float = 0.0  # of the whole video; unknown for a failure


def predict_videos(
    model: str,
    videos: list[str],
    *,
    tracking: str,
    device: str,
    decode: DecodeConfig,
    windows: Windows | None = None,
    runtime: RuntimeChoice = "torch",
    subtitles: SubtitleFormat | None = None,
) -> list[Answer]:
    """Fetch a model and label videos (files, folders or globs), in the order given and in the order of their windows.

    With ``subtitles``, a file of them is written beside each video. Raises UsageError where there is one already.
    """
    rows = [row for video in videos for row in list_input(video).select(["video_id", "uri", "start_s", "end_s"]).to_pylist()]
    places = places_beside((row["uri"] for row in rows), subtitles) if subtitles else {}
    bundle = load_bundle(fetch_model(model, uri=tracking).folder)
    predictor = open_predictor(bundle, runtime=choose(bundle, runtime, device).runtime, device=device)
    workers = decode.num_workers if windows else min(decode.num_workers, len(rows))
    stage = DecodeStage(bundle, backend=decode.backend, limits=decode.limits, workers=workers, windows=windows)
    stage.setup()
    try:
        answers = [_answered(predictor, decoded) for decoded in stage(Video(position=i, **row) for i, row in enumerate(rows))]
    finally:
        stage.teardown()
    answers.sort(key=lambda answer: (answer.video.position, answer.video.window or 0))
    if subtitles:
        for file in write_beside(answers, places, subtitles):
            note(f"subtitles {file}")
    return answers


def _answered(predictor: AnyPredictor, decoded: Decoded) -> Answer:
    if isinstance(decoded.clip, Failed):
        return Answer(video=decoded.video, outcome=decoded.clip)
    return Answer(video=decoded.video, outcome=predictor([decoded.clip])[0], duration_s=decoded.clip.info.duration_s)
