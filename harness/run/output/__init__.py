"""The output folder of a run while others look at it: status, progress, leftovers, its copy at a URL."""
