"""Frames from files: the only code that touches decoders."""
