"""Runs the cells of a suite: order, cache, resume, one record each."""
