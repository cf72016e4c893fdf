"""``python -m reelscribe`` is the command ``reelscribe``."""

from reelscribe.pipeline.cli import main

main()
