"""What a file holds, before a frame of it is wanted."""
