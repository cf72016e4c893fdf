"""ReelScribe: label video archives with CNN + RNN models; train, track, register, label at scale."""

from reelscribe import registry

__version__ = "0.1.0"

__all__ = ["__version__", "registry"]
