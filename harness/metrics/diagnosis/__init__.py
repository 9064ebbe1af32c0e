"""Diagnoses a detector: kinds of error, duplicates, calibration."""
