"""Computes average precision under the rules of a protocol (lvis, lvis-fixed, coco)."""
