"""From a model to the tables and figures of one evaluation."""
