"""Whether a network is on its way to an exported graph, where some operations have to be written in another way."""

from __future__ import annotations

import torch


def is_exported() -> bool:
    """True while a network is traced."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
