"""Trains one model in several processes."""
