"""What ails a detector: kinds of error, duplicates, calibration."""
