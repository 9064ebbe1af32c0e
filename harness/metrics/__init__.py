"""Pure figures: matching, diversity, AP and their intervals. NumPy and SciPy only; nothing here reads a file.

The way through: `matching` says which mention verifies which instance, `diversity` turns the K samples of
an image into rows, `aggregate` turns rows (under image weights) into figures, `ap` does the same for LVIS AP,
and `stats` turns figures of several seeds and bootstrap replicates into intervals and verdicts.
"""
