"""What `detmodes` does to run suites, and to see how far they are."""
