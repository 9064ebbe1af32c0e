"""Manages the output folder of a run for other processes: status, progress, leftovers, its copy at a URL."""
