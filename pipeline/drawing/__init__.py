"""Data sets of drawn videos, whose truth is known."""
