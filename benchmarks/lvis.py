"""LVIS, or any data set in its format: two annotation files and a folder of images.

Setting `split`: "lvis" (the default: train.json, val.json and images/ in the data folder) or a published one in the
usual layout of COCO's and LVIS's downloads: "lvis-v1-val" (19,809 images), "lvis-v1-minival" (those of them that lie
in val2017: the published annotation file, or a list of image ids), "lvis-v0.5-val". See `benchmarks.published`.
"""

from __future__ import annotations

from benchmarks.annotation_files import AnnotationFiles
from harness.metrics.detection.rules import Protocol


class Lvis(AnnotationFiles):
    """The Benchmark protocol over an LVIS-format data set."""

    name = "lvis"
    splits = ("lvis", "lvis-v1-val", "lvis-v1-minival", "lvis-v0.5-val")
    protocol: Protocol = "lvis"
