"""The command line: one folder for each job of the user."""
