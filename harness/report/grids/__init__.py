"""The tables of a report, whatever they look like in the end."""
