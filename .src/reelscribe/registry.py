"""Ask the model registry from Python, in the language of `reelscribe registry query`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reelscribe.pipeline.tracking.versions import ModelVersion

__all__ = ["query"]


def query(text: str = "", *, uri: str = "") -> list[ModelVersion]:
    """The versions that a query finds, joined with the runs that made them; an empty one finds all.

    ``uri`` is the tracking store; empty takes ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db`` of the folder that you are in.
    The language is described in ``reelscribe.pipeline.tracking.query_language``.
    Raises QueryError, which points at the spot in the text, and ServiceUnavailableError.
    """
    from reelscribe.pipeline.tracking.query import query_versions
    from reelscribe.pipeline.tracking.uri import tracking_uri

    return query_versions(text, uri=tracking_uri(uri, "runs"))
