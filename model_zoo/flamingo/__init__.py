"""Adapts OpenFlamingo: a toy with shipped weights, and the published sizes."""
