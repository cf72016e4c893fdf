"""Training and evaluation: the loop, losses, metrics, checkpoints, and their launch."""
