"""Computes cells in several processes of one machine, or on a Ray cluster."""
