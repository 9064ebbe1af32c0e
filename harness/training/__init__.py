"""The training loop, and what a stage gives it."""
