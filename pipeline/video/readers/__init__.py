"""The libraries that decode, behind one protocol."""
