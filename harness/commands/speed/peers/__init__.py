"""Runs `detmodes speed peers`: the same work by detmodes and by packages that are often used for it, side by side."""
