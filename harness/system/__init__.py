"""Files, locks, signals, processes and clocks: nothing here knows what is trained."""
