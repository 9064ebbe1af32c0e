"""Readers of files on disk; whatever is not as it should be is told with its file and place."""
