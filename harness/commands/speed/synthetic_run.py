"""Writes the output folder of an invented run with any number of images, which `detmodes speed report` reads.

Objects and detections are those of `harness.commands.speed.synthetic`; the outcome of the samples of an image is
drawn from a seed, row by row of the tables, without any model. Records and tables are valid: their AP is that of the
tables.

Shape legend: I images, C categories, K samples per image, n rows: the (image, category) pairs with ground truth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import records
from harness.commands.speed import synthetic
from harness.metrics.detection import ap
from harness.metrics.samples.diversity import CategoryTable, ImageTable
from harness.metrics.samples.mentions import Floats, Integers, truth_of
from harness.records import CategoryInfo, CellInfo, EvaluationInfo, Record, layout, tables
from harness.suite.cells import Cell, cells
from harness.suite.schema import Suite
from harness.system.files import sha256
from harness.types import Box, Category, Detection, Detections, Example, Frequency, Instance

CATEGORIES = 1203
SAMPLES = 8
DETECTIONS = 12
"""Detections of the greedy answer to an image: as many as an image has objects on average."""
TEXT = ("unique_name_sequences", "unique_sequences", "order_distance", "self_bleu", "distinct_1", "distinct_2")


@dataclass(frozen=True, slots=True)
class _EvaluatedScene:
    """The images and objects that all cells are evaluated on."""

    examples: Sequence[Example]
    categories: Sequence[Category]
    objects: synthetic.GeneratedObjects


def suite_of(cells_wanted: int) -> Suite:
    """Makes a suite with three seeds and enough objectives for (at least) this many cells with base and oracles."""
    objectives = [{"name": "ce", "label": f"ce_{index}"} for index in range(max(1, -(-(cells_wanted - 3) // 3)))]
    first, *_, last = (*objectives, *objectives[:1])
    claim = {"claim": "-", "a": last["label"], "b": first["label"]}
    return Suite.model_validate(
        {
            "suite": "synthetic",
            "benchmark": "lvis",
            "models": ["synthetic"],
            "objectives": objectives,
            "seeds": [0, 1, 2],
            "sample": {"samples": SAMPLES},
            "hypotheses": [
                {"id": "H1", "metric": "name_diversity", **claim},
                {"id": "H2", "metric": "AP", "margin": -0.01, **claim},
            ],
        }
    )


def write_run(folder: Path, suite: Suite, images: int, seed: int) -> None:
    """Writes suite, records and tables of every cell. The same arguments give the same numbers."""
    scene = _scene(images, np.random.default_rng(seed))
    digests = []
    for index, cell in enumerate(cells(suite)):
        info = _info(suite, cell)
        digests.append(records.digest_of(info))
        place = layout.cell(folder, cell.id, digests[-1])
        place.mkdir(parents=True)
        _write_cell(place, suite, cell, info, scene, np.random.default_rng([seed, index]))
    (folder / layout.SUITE).write_text(suite.model_dump_json(indent=1) + "\n")
    (folder / layout.DIGESTS).write_text(json.dumps(digests, indent=1) + "\n")


def _scene(images: int, rng: np.random.Generator) -> _EvaluatedScene:
    objects = synthetic.generate_objects(images, CATEGORIES, rng)
    categories = [Category(rank + 1, tuple(synthetic.names(rank)), _frequency(rank)) for rank in range(CATEGORIES)]
    examples = []
    for image, (first, count) in enumerate(zip(objects.first.tolist(), objects.count.tolist(), strict=True)):
        rows = range(first, first + count)
        instances = tuple(Instance(k, int(objects.category[k]) + 1, Box(*objects.boxes[k].tolist())) for k in rows)
        present = {item.category_id for item in instances}
        absent = frozenset((objects.negatives[image] + 1).tolist()) - present
        examples.append(Example(image + 1, Path("image.png"), 640, 480, instances, negative=absent))
    return _EvaluatedScene(examples, categories, objects)


def _frequency(rank: int) -> Frequency:
    share = rank / CATEGORIES
    common = synthetic.FREQUENT_SHARE + synthetic.COMMON_SHARE
    return "f" if share < synthetic.FREQUENT_SHARE else "c" if share < common else "r"


def _write_cell(
    folder: Path, suite: Suite, cell: Cell, info: CellInfo, scene: _EvaluatedScene, rng: np.random.Generator
) -> None:
    detected = synthetic.generate_detections(scene.objects, DETECTIONS, rng)
    matches = ap.match(scene.examples, detected, scene.categories)
    official = ap.summarise(
        ap.average_precision(matches, CATEGORIES), [category.frequency for category in scene.categories]
    )
    step = suite.train.steps if cell.role == "trained" else 0
    truth = truth_of(scene.examples, scene.categories)
    table = _category_table(truth.image, truth.category, len(scene.examples), scene.categories, rng)
    ids = [category.id for category in scene.categories]
    frame = tables.image_frame(step, 1.0, truth, ids, table, _image_table(len(scene.examples), rng))
    frame.to_parquet(folder / "images.parquet", index=False)
    detections = tables.detection_frame(step, records.GREEDY, _rows(detected), matches)
    detections.to_parquet(folder / "detections.parquet", index=False)
    record = Record(
        status="finished",
        suite=suite.suite,
        label=cell.label,
        model_label=cell.model.label,
        role=cell.role,
        cell=info,
        digest=records.digest_of(info),
        categories=tuple(
            CategoryInfo(id=c.id, names=c.names, frequency=c.frequency, train_images=5 * c.id) for c in scene.categories
        ),
        image_ids=tuple(example.image_id for example in scene.examples),
        code={"version": "0", "commit": None},
        packages={},
        device={"type": "cpu"},
        evaluator={"engine": "synthetic"},
        score_source="category",
        evaluations=(
            EvaluationInfo(step=step, metrics={"AP": float(official["AP"][0])}, diversity={}, heldout_nll=None),
        ),
        files={path.name: sha256(path) for path in sorted(folder.glob("*.parquet"))},
    )
    records.write_record(record, folder)


def _rows(detected: Detections) -> list[Detection]:
    columns = (
        detected.image_id.tolist(),
        detected.category_id.tolist(),
        detected.boxes.tolist(),
        detected.scores.tolist(),
    )
    return [Detection(image, category, Box(*box), score) for image, category, box, score in zip(*columns, strict=True)]


def _category_table(
    image: Integers, category: Integers, images: int, categories: Sequence[Category], rng: np.random.Generator
) -> CategoryTable:
    """Draws a table in which each object is verified with its own probability; names are drawn from those of the
    category."""
    key, row = np.unique(image * CATEGORIES + category, return_inverse=True)
    n, choices = len(key), np.array([len(category.names) for category in categories])
    times = rng.binomial(SAMPLES, rng.beta(2.0, 1.5, len(row)))
    verified = np.bincount(row * (SAMPLES + 1) + times, minlength=n * (SAMPLES + 1)).reshape(n, SAMPLES + 1)
    present = np.minimum(SAMPLES, (verified @ np.arange(SAMPLES + 1)))
    used = np.where(present > 0, 1 + rng.binomial(choices[key % CATEGORIES] - 1, 0.6), 0)
    named = np.zeros((n, SAMPLES + 1))
    for _ in range(int(used.max(initial=0))):
        lacking = np.flatnonzero(used > named.sum(axis=1))
        named[lacking, rng.integers(1, present[lacking] + 1)] += 1
    several = (present > 1) & (rng.random(n) < 0.95)
    return CategoryTable(
        n_images=images,
        names=choices,
        image=key // CATEGORIES,
        category=key % CATEGORIES,
        verified=verified,
        named=named,
        present=present.astype(float),
        choices=used.astype(float),
        name_diversity=_where(several, np.where(used > 1, rng.beta(2.0, 2.0, n), 0.0)),
        distinct_names=_where(used > 0, used.astype(float)),
        box_spread=_where(several, rng.beta(2.0, 8.0, n)),
    )


def _image_table(images: int, rng: np.random.Generator) -> ImageTable:
    mentions = rng.poisson(SAMPLES * synthetic.OBJECTS, images).astype(float)
    shares = {name: rng.binomial(mentions.astype(int), share).astype(float) for name, share in _SHARES.items()}
    return ImageTable(
        samples=np.full(images, float(SAMPLES)),
        mentions=mentions,
        malformed=rng.poisson(0.1, images).astype(float),
        truncated=rng.binomial(SAMPLES, 0.02, images).astype(float),
        vendi=1.0 + (SAMPLES - 1.0) * rng.beta(2.0, 3.0, images),
        distinct_ways=rng.integers(1, SAMPLES + 1, images).astype(float),
        way_diversity=rng.integers(0, 29, images) / 28,
        **shares,
        **{name: rng.beta(3.0, 2.0, images) for name in TEXT},
    )


_SHARES = {
    "verified_mentions": 0.6,
    "neutral_mentions": 0.02,
    "duplicates": 0.05,
    "hallucinations": 0.05,
    "unknown_names": 0.01,
    "lenient": 0.0,
}
"""Shares of mentions by kind."""


def _where(defined: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], values: Floats) -> Floats:
    return np.where(defined, values, np.nan)


def _info(suite: Suite, cell: Cell) -> CellInfo:
    return CellInfo(
        benchmark={"name": "synthetic"},
        model=cell.model.model_dump(mode="json"),
        objective=None if cell.objective is None else cell.objective.model_dump(mode="json"),
        seed=cell.seed,
        train=None if cell.objective is None else suite.described(cell.model, cell.objective),
        sample=suite.sample.model_dump(mode="json"),
        score=suite.score,
    )
