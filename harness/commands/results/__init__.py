"""Commands about the results of a run: report, inspect and publish them."""
