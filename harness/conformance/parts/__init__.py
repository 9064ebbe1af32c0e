"""The checks of each kind of part but adapters: a module for each kind, with its CHECKS in the order they are made."""
