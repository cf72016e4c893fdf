"""Several requests to a server at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_THREADS = 4  # as many as MLflow's server has workers, unless told otherwise

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def at_once(client: Any, ask: Callable[[Asked], Answer], questions: Sequence[Asked]) -> list[Answer]:
    """The answers, in order; a client that reads a database itself (MLflow's own) answers one by one."""
    if not getattr(client, "parallel", False) or len(questions) < 2:
        return [ask(question) for question in questions]
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(ask, questions))
