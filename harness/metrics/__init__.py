"""Computes figures as pure functions: matching, diversity, AP and their intervals. Uses NumPy and SciPy only, and
reads no file.

The order of computation: `mentions` holds ground truth and K samples as columns, `matching` says which mention
verifies which instance, `diversity` (with `text`) turns the samples into a row for each image and category,
`aggregate` turns rows (under image weights) into figures, `consensus` turns K samples into detections, `ap` turns
detections into LVIS AP, and `stats` turns figures of several seeds and bootstrap replicates into intervals and
verdicts.
"""
