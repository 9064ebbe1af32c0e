"""Runs `detmodes measure`: samples of any model and the annotations in; every diversity figure out, and the gain of
the consensus.

Everything is computed before anything is written, and every file is written completely or not at all.

Shape legend: I images, C categories, K samples per image, R bootstrap replicates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coco import synonyms, with_synonyms
from benchmarks.evaluators import evaluator, intervals
from benchmarks.readers import annotations as annotation_files
from benchmarks.readers import samples
from benchmarks.readers.annotations import Annotations
from harness import __version__
from harness.commands.score.documents import Json, describe_intervals, subtract, write_csv
from harness.commands.score.evaluate import Say, progress
from harness.commands.score.measure_rows import category_rows, image_rows
from harness.commands.score.measure_tables import tables
from harness.commands.score.request import ScoreRequest, find_path_problems
from harness.errors import ConfigError
from harness.metrics.detection.rules import Protocol
from harness.metrics.image_measures import Judged, image_columns, measure_problems
from harness.metrics.samples import aggregate
from harness.metrics.samples.aggregate import Weights
from harness.metrics.samples.consensus import consensus
from harness.metrics.samples.diversity import CategoryTable, ImageTable, category_table, image_table
from harness.metrics.samples.matching import verify
from harness.metrics.samples.mentions import Answers, Floats, Integers, Truth, name_counts, truth_of
from harness.metrics.stats import bootstrap_weights, interval, nan_to_none
from harness.system.files import write_text
from harness.system.provenance.versions import package_versions
from harness.system.terminal import screen
from harness.types import Category, Detections, Frequency

Columns = dict[str, Floats]
PACKAGES = ("hotcoco", "numpy", "scipy", "msgspec", "pyarrow")
TOGETHER = 100
"""Replicates that are computed at a time: on 20,000 images their weights take 16 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityRequest(ScoreRequest):
    """The options of `detmodes measure`. The annotation file has the sampled images, all of them.

    samples       a JSON Lines file, or the folder of a cell
    step          of a cell with several: this one, not the last
    temperature   this one only; None: all, as a curve
    per_image     file for the table by image, as CSV
    measures      names of other packages' measures that are computed too
    """

    samples: Path
    step: int | None = None
    temperature: float | None = None
    per_image: Path | None = None
    measures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """The result: `--output`, and the rows of the two CSV files (None where undefined)."""

    document: Json
    categories: list[Json]
    images: list[Json]


def command(quiet: bool, **options: Any) -> None:
    """Runs the verb. Options are the fields of DiversityRequest; `quiet`: no progress, only the tables."""
    request = DiversityRequest(**options)
    check(request)
    with progress(quiet) as say:
        measured = measure(request, say)
    write(request, measured)
    screen().print(tables(measured.document))


def check(request: DiversityRequest) -> None:
    """Raises ConfigError with every mistake that can be noticed before a file is read."""
    inputs = [request.annotations, request.samples]
    options = {"--output": "output", "--per-category": "per_category", "--per-image": "per_image"}
    problems = list(find_path_problems(inputs, {option: getattr(request, name) for option, name in options.items()}))
    problems += [f"--measure: {problem}" for name in request.measures for problem in measure_problems(name)]
    if problems:
        raise ConfigError(*problems)


def write(request: DiversityRequest, measured: Measured) -> None:
    """Writes the requested files. Their contents are made before the first is written."""
    texts = {
        request.output: json.dumps(measured.document, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        request.per_category: _write_rows(measured.categories),
        request.per_image: _write_rows(measured.images),
    }
    for path, text in texts.items():
        if path is not None:
            write_text(path, text)


def _write_rows(rows: Sequence[Json]) -> str:
    """Writes the rows as CSV, all with the keys of the first."""
    return write_csv(list(rows[0]) if rows else [], rows)


# ---- what comes of it --------------------------------------------------------------------------------------------


def measure(request: DiversityRequest, say: Say = lambda stage: None) -> Measured:
    """Computes all figures of the K samples at every temperature. Raises DataError for an invalid file."""
    say("reading annotations")
    annotations = annotation_files.load(request.annotations, request.annotations.parent, request.style)
    subject = SampledSet.of(annotations, request.protocol)
    say("reading samples")
    sampled = samples.load(request.samples, annotations, subject.categories, request.step, request.temperature)
    say("evaluating the greedy answer")
    greedy = rank_greedy(subject, sampled.greedy)
    base = average_precision(subject, greedy, request.bootstrap)
    tables, further, rows = {}, {}, []
    for temperature, answers in sampled.answers.items():
        say(f"measuring temperature {temperature:g}")
        tables[temperature] = diversity_tables(subject, answers)
        further[temperature] = _further(subject, request.measures, answers, sampled.greedy)
        figures_of = _diversity(subject, *tables[temperature], further[temperature], request.bootstrap)
        row = {"temperature": temperature, **figures_of}
        say(f"consensus at temperature {temperature:g}")
        rows.append(row | _consensus(subject, answers, greedy, base, request.bootstrap))
    document = {
        "annotations": _described(annotations),
        "samples": {
            "path": str(request.samples),
            "sha256": dict(sampled.digests),
            "step": sampled.step,
            "K": sampled.count,
            "temperatures": list(sampled.answers),
        },
        "protocol": request.protocol,
        "bootstrap": request.bootstrap,
        "greedy": base,
        "temperatures": rows,
        "versions": {"detmodes": __version__, **package_versions(PACKAGES)},
    }
    return Measured(
        document,
        [
            {"temperature": heat, **row}
            for heat, (table, _) in tables.items()
            for row in category_rows(subject.categories, table)
        ],
        [
            {"temperature": heat, **row}
            for heat, (_, table) in tables.items()
            for row in image_rows(subject.truth.image_ids, table, further[heat])
        ],
    )


@dataclass(frozen=True, slots=True)
class SampledSet:
    """The ground truth that samples are measured against. `categories` are those of the annotations, with all their
    names."""

    annotations: Annotations
    categories: tuple[Category, ...]
    truth: Truth
    protocol: Protocol

    @classmethod
    def of(cls, annotations: Annotations, protocol: Protocol) -> SampledSet:
        """Makes a set from annotations; COCO's categories get the names that LVIS has for them, unless the file says
        their names itself."""
        categories = annotations.categories
        if protocol == "coco" and not annotations.says_synonyms:
            categories = with_synonyms(categories, synonyms())
        return cls(annotations, categories, truth_of(annotations.examples, categories), protocol)

    @property
    def names(self) -> Integers:
        """Counts the names S of each category, [C]."""
        return name_counts(self.categories)

    @property
    def frequency(self) -> list[Frequency | None]:
        return [category.frequency for category in self.categories]

    def detections(self, image: Integers, category: Integers, boxes: Floats, scores: Floats) -> Detections:
        """Makes detections with ids instead of indices."""
        ids = np.array([item.id for item in self.categories], dtype=np.int64)
        return Detections(self.truth.image_ids[image], ids[category], boxes, scores)


def _described(annotations: Annotations) -> Json:
    return {
        "path": str(annotations.path),
        "sha256": annotations.digest,
        "images": len(annotations.examples),
        "instances": sum(len(example.instances) for example in annotations.examples),
        "categories": len(annotations.categories),
    }


# ---- diversity ---------------------------------------------------------------------------------------------------


def diversity_tables(subject: SampledSet, answers: Answers, text: bool = True) -> tuple[CategoryTable, ImageTable]:
    """Computes the tables that every diversity figure is made of; `text`: with those of harness.metrics.samples.text,
    which take longest."""
    verification = verify(subject.truth, answers.mentions)
    return (
        category_table(subject.truth, answers, verification, subject.names),
        image_table(subject.truth, answers, verification, text),
    )


def figures(
    subject: SampledSet,
    table: CategoryTable,
    per_image: ImageTable,
    weights: Weights | None = None,
    further: Columns | None = None,
) -> dict[str, Floats]:
    """Computes `aggregate.mean_figures` of the subject's categories, and the means of other packages' measures."""
    means = aggregate.mean_figures(table, per_image, subject.frequency, weights)
    return means | aggregate.mean_over_images(further or {}, weights)


def _further(subject: SampledSet, names: Sequence[str], answers: Answers, greedy: Answers | None) -> Columns:
    """Computes other packages' measures for each image, by name, each [I]."""
    if not names:
        return {}
    judged, *alone = [Judged(each, verify(subject.truth, each.mentions)) for each in (answers, greedy) if each]
    return image_columns(names, subject.truth, judged, next(iter(alone), None))


def _diversity(
    subject: SampledSet, table: CategoryTable, per_image: ImageTable, further: Columns, replicates: int | None
) -> Json:
    """Makes the entry of all diversity figures; `defined_for`: the number of categories that a figure's mean covers."""
    points = figures(subject, table, per_image, further=further)
    by_category = aggregate.category_figures(table)
    drawn = {} if replicates is None else _replicates(subject, table, per_image, further, replicates)
    return {
        "figures": {name: nan_to_none(values[0]) for name, values in points.items()},
        "intervals": describe_intervals({name: interval(points[name], values[None]) for name, values in drawn.items()}),
        "defined_for": {name: int((~np.isnan(values)).sum()) for name, values in by_category.items()},
        "per_category": {str(row["id"]): row for row in category_rows(subject.categories, table)},
    }


def _replicates(
    subject: SampledSet, table: CategoryTable, per_image: ImageTable, further: Columns, count: int
) -> dict[str, Floats]:
    """Computes every figure in each of `count` bootstrap replicates over images, [count]."""
    weights = bootstrap_weights(table.n_images, count)
    parts = [
        figures(subject, table, per_image, weights[start : start + TOGETHER], further)
        for start in range(0, count, TOGETHER)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# ---- AP ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranked:
    """Detections, or the reason why they cannot be ranked."""

    detections: Detections | None
    reason: str | None = None


def rank_greedy(subject: SampledSet, answers: Answers | None) -> Ranked:
    """Ranks every mention of a known name by its score."""
    if answers is None:
        return Ranked(None, "no sample of temperature 0")
    mentions = answers.mentions
    named = mentions.category >= 0
    reason = _unranked(answers)
    if reason:
        return Ranked(None, reason)
    columns = (mentions.image[named], mentions.category[named], mentions.boxes[named], mentions.score[named])
    return Ranked(subject.detections(*columns))


def rank_consensus(subject: SampledSet, answers: Answers) -> Ranked:
    """Ranks the consensus of K samples."""
    reason = _unranked(answers)
    if reason:
        return Ranked(None, reason)
    clusters = consensus(answers.mentions, answers.samples)
    return Ranked(subject.detections(clusters.image, clusters.category, clusters.boxes, clusters.scores))


def _unranked(answers: Answers) -> str | None:
    """Returns why the mentions cannot be ranked: ranking only those with a score would evaluate another detector."""
    named = answers.mentions.category >= 0
    missing = int((np.isnan(answers.mentions.score) & named).sum())
    return f"{missing:,} of {int(named.sum()):,} mentions have no score" if missing else None


def average_precision(subject: SampledSet, ranked: Ranked, replicates: int | None) -> Json:
    """Computes the official figures with their intervals; without figures the reason says why."""
    if ranked.detections is None:
        return {"metrics": None, "intervals": {}, "reason": ranked.reason}
    evaluation = evaluator.evaluate(subject.annotations, ranked.detections, subject.protocol)
    drawn = {}
    if replicates is not None:
        drawn = describe_intervals(
            intervals.bootstrap(subject.annotations, ranked.detections, subject.protocol, replicates)
        )
    return {"metrics": dict(evaluation.metrics), "intervals": drawn, "reason": None}


def _consensus(subject: SampledSet, answers: Answers, greedy: Ranked, base: Json, replicates: int | None) -> Json:
    """Computes AP of the consensus, and its gain over the greedy answer (paired: both are drawn on the same images)."""
    ranked = rank_consensus(subject, answers)
    precision = average_precision(subject, ranked, replicates)
    if ranked.detections is None or greedy.detections is None:
        return {"consensus": precision, "gain": None}
    gain = {name: subtract(value, base["metrics"][name]) for name, value in precision["metrics"].items()}
    drawn = {}
    if replicates is not None:
        pair = (ranked.detections, greedy.detections)
        drawn = describe_intervals(intervals.compare(subject.annotations, *pair, subject.protocol, replicates))
    return {"consensus": precision, "gain": {"metrics": gain, "intervals": drawn}}
