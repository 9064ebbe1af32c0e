"""Commands that run suites and show their progress."""
