"""Provides files, locks, signals, processes and clocks: nothing here depends on what is trained."""
