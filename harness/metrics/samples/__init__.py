"""Measures what K samples of an image mention: matching, diversity, consensus, reward."""
