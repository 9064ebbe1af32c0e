"""The job of a user who adds a part: write its skeleton, and check that it keeps its contract."""
