"""What a run will cost, by arithmetic: nothing is computed and no weights are read."""
