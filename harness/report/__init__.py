"""Turns records into rows, grids, figures and verdicts."""
