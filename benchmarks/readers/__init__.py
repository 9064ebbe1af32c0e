"""Reads files on disk; every error names its file and place."""
