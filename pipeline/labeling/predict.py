"""Labels for a few videos at once, without a job."""

from __future__ import annotations

from dataclasses import dataclass

from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.manifest import list_videos
from reelscribe.pipeline.predictor import AnyPrediction, Predictor
from reelscribe.pipeline.tracking.registry import fetch_model
from reelscribe.pipeline.video.sandbox.pool import DecodePool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one video."""

    uri: str
    outcome: AnyPrediction | VideoError


def predict_videos(model: str, videos: list[str], *, tracking: str, device: str, decode: DecodeConfig) -> list[Answer]:
    """Fetch a model and label videos (files, folders or globs), in the order given."""
    rows = [row for video in videos for row in list_videos(video).to_pylist()]
    predictor = Predictor(load_bundle(fetch_model(model, uri=tracking).folder), device)
    requests = ((i, predictor.bundle.request(row["uri"], row["start_s"], row["end_s"])) for i, row in enumerate(rows))
    outcomes: dict[int, AnyPrediction | VideoError] = {}
    with DecodePool(min(decode.num_workers, len(rows)), decode.limits) as pool:
        for i, clip in pool.map(requests):
            outcomes[i] = clip if isinstance(clip, VideoError) else predictor([clip])[0]
    return [Answer(uri=row["uri"], outcome=outcomes[i]) for i, row in enumerate(rows)]
