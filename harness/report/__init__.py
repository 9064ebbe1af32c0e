"""From records to rows, grids, figures and verdicts."""
