"""Decoding in processes that are killed from outside."""
