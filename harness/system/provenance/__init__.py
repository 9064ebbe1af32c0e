"""Finds out where the figures of a record come from: code, packages, device, memory, pictures, parts of others."""
