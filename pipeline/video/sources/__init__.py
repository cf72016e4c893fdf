"""Where the bytes of a video come from."""
