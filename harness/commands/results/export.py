"""Runs `detmodes export`: the answers of a finished cell, in formats that other tools read.

coco   its detections (of the greedy answer) as a COCO results file: a list of image_id, category_id, bbox, score
jsonl  all its samples, at every temperature, as docs/reference/samples.md has them
Beside them the annotations that they belong to, so that `evaluate` and `measure` give the cell's own figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from benchmarks.formats.coco_document import document_of, pictures_folder
from benchmarks.readers import samples_parquet
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.sample_columns import NONE, Columns
from harness import records
from harness.commands.results.codebook import benchmark_of
from harness.errors import ConfigError, DataError
from harness.protocols import Benchmark
from harness.report.results import load
from harness.suite.permissions import NOTHING, Permissions, run_of

Target = Literal["coco", "jsonl"]
DETECTIONS = "detections.parquet"


def export(cell: Path, target: Target, step: int | None = None) -> Iterator[str]:
    """Yields the text of the export, piece by piece, at a step (None: the last one).

    Raises DataError, one line, where the folder is no finished cell, or lacks the tables (published cells have no
    samples); ConfigError for a step at which the cell was not evaluated.
    """
    record = records.read_record(cell)
    if record.status != "finished":
        raise DataError(f"{cell}: expected a finished cell, this one has failed")
    if step is not None and step not in record.steps:
        raise ConfigError(f"--step: expected one of {', '.join(map(str, record.steps))}, got {step}")
    names = (DETECTIONS,) if target == "coco" else (samples_parquet.SAMPLES, samples_parquet.MENTIONS)
    for name in names:
        if name not in record.files:
            has = "published cells have no samples" if target == "jsonl" else "its answers have no boxes"
            raise DataError(f"{cell}: has no {name} ({has}, or it was left out)")
    records.verify_files(record, cell, names)
    step = record.steps[-1] if step is None else step
    if target == "coco":
        yield from _results_file(pd.read_parquet(cell / DETECTIONS), step, cell)
    else:
        yield from _sample_lines(samples_parquet.read(cell, step))


def _results_file(table: pd.DataFrame, step: int, cell: Path) -> Iterator[str]:
    """Writes the detections in the order of the table, in which ties are ranked as when the cell was evaluated."""
    missing = [name for name in ("x", "y", "w", "h", "score") if name not in table]
    if missing:
        raise DataError(f"{cell / DETECTIONS}: has no {', '.join(missing)}: an archive counts detections only")
    rows = table[table["step"] == step]
    if "temperature" in rows:
        rows = rows[rows["temperature"] == records.GREEDY]
    columns = [rows[name].tolist() for name in ("image_id", "category_id", "x", "y", "w", "h", "score")]
    yield "["
    for position, (image_id, category_id, x, y, w, h, score) in enumerate(zip(*columns, strict=True)):
        row = {"image_id": image_id, "category_id": category_id, "bbox": [x, y, w, h], "score": score}
        yield f"{',' if position else ''}\n{json.dumps(row)}"
    yield "\n]\n"


def _sample_lines(columns: Columns) -> Iterator[str]:
    """Writes a line for each sample; those of an image at a temperature are numbered from 0."""
    mentions: list[list[dict[str, Any]]] = [[] for _ in columns.image_id]
    values = (columns.owner, columns.name, columns.boxes, columns.score)
    for owner, name, box, score in zip(*(column.tolist() for column in values), strict=True):
        mention: dict[str, Any] = {"name": None if name == NONE else columns.names[name]}
        mention["bbox"] = box if all(map(math.isfinite, box)) else None
        if math.isfinite(score):
            mention["score"] = score
        mentions[owner].append(mention)
    order = np.lexsort((columns.sample, columns.image_id, columns.temperature))
    numbers: dict[tuple[int, float], int] = {}
    for row in order.tolist():
        image_id, temperature = int(columns.image_id[row]), float(columns.temperature[row])
        number = numbers.get((image_id, temperature), 0)
        numbers[image_id, temperature] = number + 1
        line: dict[str, Any] = {"image_id": image_id, "sample": number, "temperature": temperature}
        line["mentions"] = mentions[row]
        counts = {"malformed": int(columns.malformed[row]), "truncated": bool(columns.truncated[row])}
        counts["lenient"] = int(columns.lenient[row])
        yield json.dumps({**line, **{name: count for name, count in counts.items() if count}}) + "\n"


def benchmark_of_cell(cell: Path, data: Path | None, permissions: Permissions = NOTHING) -> Benchmark:
    """Returns the benchmark that a cell was evaluated on.

    Raises as `benchmark_of`, and DataError where the cell lies in the folder of no run.
    """
    run = run_of(cell)
    results = load(run)
    keys = [key for key, folder in results.folders.items() if folder.resolve() == cell.resolve()]
    if not keys:
        raise DataError(f"{cell}: expected a cell in the folder of its run, to know its benchmark's settings")
    return benchmark_of(run, results, keys, data, permissions)


def truth_of_cell(cell: Path, data: Path | None, permissions: Permissions = NOTHING) -> tuple[str, Path]:
    """Returns the annotations that a cell was evaluated on, as JSON in the style of its protocol, and the folder that
    its `file_name`s are relative to.

    Raises as `benchmark_of_cell`, and DataError for a benchmark that has no annotations to write.
    """
    benchmark: Any = benchmark_of_cell(cell, data, permissions)
    if not hasattr(benchmark, "annotations"):
        raise DataError(f"benchmark {benchmark.name}: has no method annotations(split), so that none can be written")
    annotations: Annotations = benchmark.annotations("val")
    style: Literal["lvis", "coco"] = "coco" if benchmark.protocol == "coco" else "lvis"
    return json.dumps(document_of(annotations, style)) + "\n", pictures_folder(annotations)
