"""Arithmetic only: no bluesky, no files, no threads of its own."""
