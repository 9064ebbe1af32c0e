"""What `detmodes` does to say what a suite file may hold."""
