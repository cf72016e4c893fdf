"""A tiny model with random weights, as the registry would hand it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reelscribe.pipeline.bundle import BundleSpec, ModelBundle, save_bundle
from reelscribe.pipeline.config import ModelConfig, TransformConfig
from reelscribe.pipeline.sampling import UniformSampling

LABELS = ("left", "right", "<b>up & down</b>")


@dataclass(frozen=True)
class Identity:
    """A registered model as the registry hands it out."""

    name: str | None = "shapes"
    version: str | None = "3"
    alias: str | None = "champion"
    run_id: str | None = "0123abcd"


def make_bundle(folder: Path, *, num_frames: int = 4, seed: int = 0) -> ModelBundle:
    """A recognizer with random weights."""
    from reelscribe.pipeline.bundle import new_recognizer

    model, transform = ModelConfig(encoder="tiny", weights="none", hidden_size=16), TransformConfig(height=32, width=32)
    network = new_recognizer(model, transform, num_classes=len(LABELS), seed=seed)
    spec = BundleSpec(
        name="shapes", labels=LABELS, model=model, sampling=UniformSampling(num_frames=num_frames), transform=transform, temperature=0.5
    )
    return save_bundle(folder, spec=spec, state=network.state_dict(), card="# shapes\n")
