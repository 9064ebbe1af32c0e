"""Computes official figures of detections: engines, the evaluator that chooses one, intervals and diagnostics."""
