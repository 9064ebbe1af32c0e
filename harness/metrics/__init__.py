"""Pure figures: matching, diversity, AP and their intervals. NumPy and SciPy only; nothing here reads a file.

The way through: `mentions` holds ground truth and K samples as columns, `matching` says which mention verifies which
instance, `diversity` (with `text`) turns the samples into a row for each image and category, `aggregate` turns rows
(under image weights) into figures, `consensus` turns K samples into detections, `ap` turns detections into LVIS AP, and
`stats` turns figures of several seeds and bootstrap replicates into intervals and verdicts.
"""
