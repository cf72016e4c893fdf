"""Commands handed to a Ray cluster: what is said where that cannot be."""

from __future__ import annotations

import pytest

from reelscribe.pipeline import cluster_jobs
from reelscribe.pipeline.errors import ServiceUnavailableError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def test_nobody_there() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no Ray Jobs API answers at http://127\.0\.0\.1:9") as caught:
        cluster_jobs.submit(["--version"], address="http://127.0.0.1:9")
    assert caught.value.exit_status == 2


def test_nothing_to_submit() -> None:
    with pytest.raises(UsageError, match="nothing to submit"):
        cluster_jobs.submit([], address="")
