"""Runs `detmodes speed evaluation`: measures the cost of evaluation on this machine, beside the official
implementations.

Every measurement is a fresh process that reads its files, validates them and evaluates: seconds of that work, and the
peak memory of the process. The sets are generated from a seed, see `harness.commands.speed.synthetic`.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluators import evaluator, intervals
from benchmarks.readers import detections
from benchmarks.readers.annotations import Style, load
from harness.commands.speed import synthetic, whole_commands
from harness.metrics.detection.rules import Protocol
from harness.system import timing
from harness.system.files import check_place, write_text

WHOLE, HOTCOCO = "whole command", "hotcoco alone"
RATIO, CPU_RATIO = "over hotcoco alone", "CPU time over hotcoco alone"
PACKAGES = ("detmodes", "hotcoco", "lvis", "pycocotools", "numpy", "pyarrow", "msgspec")
INPUTS = ("json", "parquet", "npz")
REFERENCE_IMAGES, COCO_DETECTIONS, COCO_CATEGORIES = 1_000, 100, 80
"""Size of the sets on which the official implementations run too: a few minutes."""
WHOLE_IMAGES, TURNS = 3_000, 3
"""Size of the smaller set on which whole commands are timed, and how often."""
BOOTSTRAP_IMAGES, BOOTSTRAP_DETECTIONS, REPLICATES = 5_000, 30, 1_000
TOLERANCE = 1e-9
"""Largest difference between figures that should be the same."""


@dataclass(frozen=True, slots=True)
class DetectionSetSize:
    """Size of a generated set."""

    images: int
    detections_per_image: int
    categories: int

    def __str__(self) -> str:
        rows = self.images * self.detections_per_image
        return f"{self.images:,} images, {rows:,} detections, {self.categories:,} categories"


@dataclass(frozen=True, slots=True)
class EvaluationTiming:
    """One row. stages: seconds of each step; figures: what was computed, for the check that all agree."""

    task: str
    protocol: str
    engine: str
    input: str
    shape: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    stages: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)


def command(
    images: int, detections_per_image: int, categories: int, references: bool, seed: int, output: Path | None
) -> int:
    """Prints the tables. Returns the exit code: 0, or 1 if two ways to the same figures disagree.

    Raises ConfigError, before anything is measured, for an output that has no folder.
    """
    if output is not None:
        check_place(output)
    from harness.system.provenance.versions import (
        package_versions,  # late: torch, which the measured processes do not need
    )

    machine = {**timing.machine(), "packages": package_versions(PACKAGES)}
    full = DetectionSetSize(images, detections_per_image, categories)
    with tempfile.TemporaryDirectory(prefix="detmodes-speed-") as folder:
        whole = DetectionSetSize(min(images, WHOLE_IMAGES), detections_per_image, categories)
        groups = [_whole_commands(Path(folder), size, seed) for size in dict.fromkeys((whole, full))]
        groups.append(_inputs(Path(folder), full, seed))
        if references:
            small = min(images, REFERENCE_IMAGES)
            coco = DetectionSetSize(small, min(detections_per_image, COCO_DETECTIONS), COCO_CATEGORIES)
            groups.append(
                _side_by_side(Path(folder), DetectionSetSize(small, detections_per_image, categories), "lvis", seed)
            )
            groups.append(_side_by_side(Path(folder), coco, "coco", seed))
        sparse = (min(images, BOOTSTRAP_IMAGES), min(detections_per_image, BOOTSTRAP_DETECTIONS))
        groups.append([_bootstrap(Path(folder), DetectionSetSize(*sparse, categories), seed)])
    rows = [row for group in groups for row in group]
    differences = [difference for group in groups for difference in _differences(group)]
    print(to_markdown(rows, machine))
    for difference in differences:
        print(f"detmodes: {difference}", file=sys.stderr)
    if output is not None:
        measured = [{**asdict(row), "figures": {"AP": row.figures.get("AP")}} for row in rows]  # not 1,203 categories
        document = {"machine": machine, "seed": seed, "measurements": measured, "differences": differences}
        write_text(output, json.dumps(document, indent=1) + "\n")
    return 1 if differences else 0


def from_document(document: Mapping[str, Any]) -> str:
    """Makes the tables from what `--output` wrote."""
    return to_markdown([EvaluationTiming(**row) for row in document["measurements"]], document["machine"])


# ---- what is measured --------------------------------------------------------------------------------------------


def _inputs(folder: Path, shape: DetectionSetSize, seed: int) -> list[EvaluationTiming]:
    """Runs the fast engine at the full size, once from each kind of file. The files are removed afterwards."""
    files = generate(folder, shape, "lvis", seed, INPUTS)
    rows = [_evaluation("evaluate", files, shape, "lvis", "fast", kind) for kind in INPUTS]
    for path in files.values():
        path.unlink()
    return rows


def _whole_commands(folder: Path, shape: DetectionSetSize, seed: int) -> list[EvaluationTiming]:
    """Measures `detmodes evaluate` without diagnostics beside hotcoco alone, from start to end; medians over turns."""
    files = generate(folder, shape, "lvis", seed, ("json", "parquet"))
    rows = []
    for kind in ("json", "parquet"):
        tools = whole_commands.TOOLS if kind == "json" else {"detmodes": whole_commands.DETMODES}
        given = whole_commands.EvaluatedFiles(files["annotations"], files[kind])
        costs = whole_commands.measure_turns(tools, given, TURNS, note)
        for tool, runs in costs.items():
            seconds, busy, peak = (
                whole_commands.median_of(runs, name) for name in ("seconds", "cpu_seconds", "peak_mib")
            )
            stages = {}
            if tool == "detmodes" and HOTCOCO in costs:
                stages[RATIO] = whole_commands.compare(runs, costs[HOTCOCO])
                stages[CPU_RATIO] = whole_commands.compare(runs, costs[HOTCOCO], "cpu_seconds")
            figures = {"AP": runs[0].ap}
            row = EvaluationTiming(WHOLE, "lvis", tool, kind, str(shape), seconds, busy, peak, stages, figures)
            rows.append(row)
    for path in files.values():
        path.unlink()
    return rows


def _side_by_side(folder: Path, shape: DetectionSetSize, protocol: Protocol, seed: int) -> list[EvaluationTiming]:
    """Runs both engines on one set; the fast one before and after the reference, so that both run under the same
    load."""
    files = generate(folder, shape, "coco" if protocol == "coco" else "lvis", seed, ("json",))
    fast, reference = evaluator.list_engines(protocol)
    turns = (fast, reference, fast)
    return [_evaluation("compare", files, shape, protocol, engine, "json") for engine in turns]


def _bootstrap(folder: Path, shape: DetectionSetSize, seed: int) -> EvaluationTiming:
    files = generate(folder, shape, "lvis", seed, ("parquet",))
    note(f"bootstrap, {REPLICATES:,} replicates: {shape}")
    arguments = (str(files["annotations"]), str(files["parquet"]), REPLICATES)
    result = timing.isolated("harness.commands.speed.evaluation:run_bootstrap", *arguments)
    task = f"bootstrap, {REPLICATES:,} replicates"
    return _row(task, "lvis", "own", "parquet", shape, result)


def _evaluation(
    task: str, files: Mapping[str, Path], shape: DetectionSetSize, protocol: Protocol, engine: str, kind: str
) -> EvaluationTiming:
    note(f"{protocol}, engine {engine}, from {kind}: {shape}")
    arguments = (str(files["annotations"]), str(files[kind]), protocol, engine)
    result = timing.isolated("harness.commands.speed.evaluation:run_evaluation", *arguments)
    return _row(task, protocol, engine, kind, shape, result)


def _row(
    task: str, protocol: str, engine: str, kind: str, shape: DetectionSetSize, result: timing.Result
) -> EvaluationTiming:
    cost = (result.seconds, result.cpu_seconds, result.peak_rss_mib)
    return EvaluationTiming(task, protocol, engine, kind, str(shape), *cost, **result.value)


def generate(folder: Path, shape: DetectionSetSize, style: Style, seed: int, kinds: tuple[str, ...]) -> dict[str, Path]:
    """Generates the files of a set, by kind, and its "annotations". The same arguments give the same bytes (except
    for .npz)."""
    note(f"generating {style}: {shape}")
    rng = np.random.default_rng(seed)
    objects = synthetic.generate_objects(shape.images, shape.categories, rng)
    detected = synthetic.generate_detections(objects, shape.detections_per_image, rng)
    files = {"annotations": folder / f"{style}.json", **{kind: folder / f"detections.{kind}" for kind in kinds}}
    synthetic.write_annotations(files["annotations"], objects, style, rng)
    for kind in kinds:
        synthetic.write_detections(files[kind], detected)
    del objects, detected
    gc.collect()  # the measured process needs the memory
    return files


def note(text: str) -> None:
    """Says on stderr what is measured now."""
    print(text, file=sys.stderr, flush=True)


# ---- in a process of its own -------------------------------------------------------------------------------------


def run_evaluation(truth: str, detections_file: str, protocol: Protocol, engine: str) -> dict[str, dict[str, Any]]:
    """Reads, validates and evaluates; returns seconds of each step, and all figures with AP by category."""
    start = time.perf_counter()
    loaded = load(Path(truth), Path(truth).parent, "coco" if protocol == "coco" else "lvis")
    read = time.perf_counter()
    rows = detections.load(Path(detections_file))
    ready = time.perf_counter()
    evaluation = evaluator.evaluate(loaded, rows, protocol, engine)
    stages = {"annotations": read - start, "detections": ready - read, "evaluate": time.perf_counter() - ready}
    per_category = {str(category): ap for category, ap in evaluation.per_category.items()}
    return {"stages": stages, "figures": {**evaluation.metrics, **per_category}}


def run_bootstrap(truth: str, detections_file: str, replicates: int) -> dict[str, dict[str, float]]:
    """Reads, validates and resamples; returns seconds of each step."""
    start = time.perf_counter()
    loaded = load(Path(truth), Path(truth).parent)
    rows = detections.load(Path(detections_file))
    ready = time.perf_counter()
    intervals.bootstrap(loaded, rows, "lvis", replicates)
    return {"stages": {"read": ready - start, "bootstrap": time.perf_counter() - ready}}


# ---- what is reported --------------------------------------------------------------------------------------------


def _differences(group: list[EvaluationTiming]) -> list[str]:
    """Lists figures in which a row of the group differs from its first row, which evaluated the same set."""
    first = group[0]
    return [
        f"{first.protocol} {name}: {first.engine} from {first.input} gives {first.figures[name]}, "
        f"{row.engine} from {row.input} gives {row.figures[name]}"
        for row in group[1:]
        for name in first.figures
        if not _same(first.figures[name], row.figures[name])
    ]


def _same(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= TOLERANCE


def to_markdown(rows: list[EvaluationTiming], machine: Mapping[str, Any]) -> str:
    """Prints the machine, one table of all measurements, and the ratios of those that were compared."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"load {machine['load']}; {versions}",
        "",
        "| measured | set | protocol | engine | input | seconds | CPU seconds | peak memory, MiB |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row.task} | {row.shape} | {row.protocol} | {row.engine} | {row.input} "
        f"| {row.seconds:.1f} | {row.cpu_seconds:.1f} | {row.peak_mib:,.0f} |"
        for row in rows
    ]
    whole = [row for row in rows if RATIO in row.stages]
    if whole:
        lines += ["", "| whole command, from JSON, detmodes / hotcoco alone | time | CPU time |", "|---|---:|---:|"]
        lines += [f"| {row.shape} | {row.stages[RATIO]:.2f} | {row.stages[CPU_RATIO]:.2f} |" for row in whole]
    compared = ratios(rows)
    if compared:
        lines += [
            "",
            "| protocol | reference | time, reference / fast | memory, reference / fast |",
            "|---|---|---:|---:|",
        ]
        lines += [f"| {protocol} | {name} | {t:.1f} | {m:.1f} |" for protocol, name, t, m in compared]
    return "\n".join(lines)


def ratios(rows: list[EvaluationTiming]) -> list[tuple[str, str, float, float]]:
    """Returns (protocol, reference, time ratio, memory ratio) of the compared rows, over the mean of the fast
    engine's."""
    compared = [row for row in rows if row.task == "compare"]
    comparisons = []
    for reference in (row for row in compared if row.engine != "fast"):
        fast = [row for row in compared if row.engine == "fast" and row.protocol == reference.protocol]
        seconds, peak = (statistics.mean(getattr(row, name) for row in fast) for name in ("seconds", "peak_mib"))
        comparisons.append(
            (reference.protocol, reference.engine, reference.seconds / seconds, reference.peak_mib / peak)
        )
    return comparisons
