"""Commands that score files of detections and samples from any model."""
