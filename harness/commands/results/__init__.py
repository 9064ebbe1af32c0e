"""What `detmodes` does with the results of a run: report, look into and publish them."""
