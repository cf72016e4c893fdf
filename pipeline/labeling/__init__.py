"""Labelling jobs: stages, the commit protocol, and their launch."""
