"""Turns a model's answers into the tables and figures of one evaluation."""
