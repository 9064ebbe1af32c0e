"""`detmodes.evaluate` and `detmodes.measure`: what the verbs of these names compute, as values.

In: files, or what is in memory. Out: what the verb's `--output` holds, a dict of JSON values (None where undefined).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.api.given import given_files
from harness.errors import ConfigError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from harness.metrics.detection.rules import Protocol

Path_ = str | os.PathLike[str]
STYLES = ("lvis", "coco")
"""What `measure` knows; `lvis-fixed` is about detections alone."""


def evaluate(
    annotations: Path_ | Mapping[str, Any],
    detections: Path_ | Sequence[Mapping[str, Any]] | pd.DataFrame,
    protocol: Protocol = "lvis",
    *,
    engine: str = "fast",
    bootstrap: int | None = None,
    compare: Path_ | None = None,
    diagnostics: bool = False,
) -> dict[str, Any]:
    """Computes the official figures of detections.

    Args:
        annotations: an annotation file (LVIS v0.5 or v1, or COCO), or its content as a mapping.
        detections: a results file (.json, .parquet, .npz), its rows as dicts with image_id, category_id, bbox
            ([x, y, w, h] in pixels) and score, or a DataFrame with columns image_id, category_id, x, y, w, h, score.
        protocol: lvis, lvis-fixed (no cap an image, 10,000 a category) or coco.
        engine: fast, or the reference of the protocol: lvis or pycocotools.
        bootstrap: replicates for 95% intervals.
        compare: another results file for the same annotations.
        diagnostics: whether to say what ails a generative detector too; six more evaluations.

    Returns:
        `metrics` (official name -> figure), `per_category`, and `intervals`, `errors`, `generative`, `compare` where
        they were asked for; `warnings` about what looks like a mistake; `versions`. As `detmodes evaluate --output`.

    Raises:
        ConfigError: for a protocol or engine that there is not. DataError: for files that are not what they must be.
    """
    from harness.commands.score import evaluate as verb

    with given_files() as files:
        request = verb.EvaluationRequest(
            annotations=files.annotations(annotations),
            detections=files.detections(detections),
            protocol=protocol,
            engine=engine,
            bootstrap=bootstrap,
            compare=None if compare is None else files.detections(compare),
            diagnose=diagnostics,
        )
        verb.check(request)
        document, _ = verb.evaluate(request)
        return files.unplaced(document)


def measure(
    samples: Path_ | Sequence[Mapping[str, Any]],
    annotations: Path_ | Mapping[str, Any],
    protocol: Protocol = "lvis",
    *,
    step: int | None = None,
    temperature: float | None = None,
    bootstrap: int | None = None,
    measures: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures how many valid answers K samples an image give, and what their consensus is worth.

    Args:
        samples: a JSON Lines file, the folder of a cell, or samples as dicts with image_id, sample, temperature and
            mentions, each with name, bbox and score (see docs/reference/samples.md).
        annotations: the annotation file of the sampled images, or its content as a mapping.
        protocol: lvis or coco, the style of the annotations and of AP.
        step: of a cell, this step, not the last.
        temperature: this one only; all by default.
        bootstrap: replicates for 95% intervals.
        measures: names of other packages' measures that are computed too.

    Returns:
        What `detmodes measure --output` holds: `temperatures`, a list with the figures of each, `greedy`, and under
        `images` the table by image (one row for each image and temperature).

    Raises:
        ConfigError: for a protocol or measure that there is not. DataError: for files that are not what they must be.
    """
    from harness.commands.score import measure as verb

    if protocol not in STYLES:
        raise ConfigError(unknown("protocol", protocol, STYLES))
    with given_files() as files:
        request = verb.DiversityRequest(
            annotations=files.annotations(annotations),
            samples=files.samples(samples),
            protocol=protocol,
            step=step,
            temperature=temperature,
            bootstrap=bootstrap,
            measures=tuple(measures),
        )
        verb.check(request)
        measured = verb.measure(request)
        return files.unplaced({**measured.document, "images": measured.images})
