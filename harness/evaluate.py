"""Sequences -> mentions -> AP and diversity: everything that one evaluation of one model measures.

AP comes from the greedy answer, diversity from K samples, and at the last step AP of their consensus as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from hashlib import sha256

import numpy as np
import pandas as pd

from harness import frames
from harness.generate import Kept, generate, unkept
from harness.metrics import aggregate
from harness.metrics.consensus import consensus
from harness.metrics.diversity import CategoryTable, ImageTable, category_table, image_table
from harness.metrics.mentions import Truth, name_counts, truth_of
from harness.protocols import Adapter, Benchmark, Predictor
from harness.reading import Read, read
from harness.records import GREEDY, EvaluationInfo, Figures, image_frame
from harness.scores import CHUNK, MentionScore, score
from harness.suite import SampleSettings
from harness.types import Box, Category, Detection, Evaluation, Example, Parsed


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures, and the tables they are made of (see harness.records)."""

    info: EvaluationInfo
    tables: dict[str, pd.DataFrame]
    evaluation: Evaluation
    score_source: str


def measure(
    predictor: Predictor,
    benchmark: Benchmark,
    settings: SampleSettings,
    score_source: str,
    seed: int,
    step: int,
    heldout_nll: float | None,
    last: bool = True,
    progress: Callable[[int], None] = lambda images: None,
    kept: Kept = unkept,
) -> Measurement:
    """Evaluates a predictor on the validation split; `last`: with all that is measured of the last step alone.
    What the model says is `kept` batch by batch.

    A predictor without logits has no probabilities: its score source is "constant".
    """
    examples, categories = benchmark.split("val"), benchmark.categories
    truth = truth_of(examples, categories)
    source = score_source if isinstance(predictor, Adapter) else "constant"
    greedy, *sampled = _answers(predictor, examples, truth, categories, settings, seed, last, progress, kept)
    detections = {GREEDY: _detections(truth, greedy, source)}
    if last:
        detections |= {read.temperature: _consensus(truth, categories, read, source) for read in sampled}
    official = {heat: benchmark.evaluate("val", own) for heat, own in detections.items()}
    tables = {read.temperature: figure_tables(truth, read, categories) for read in sampled}
    diversity, per_category = _figures(*tables[settings.temperature], categories, official[GREEDY])
    info = EvaluationInfo(
        step=step,
        metrics=dict(official[GREEDY].metrics),
        consensus=dict(official[settings.temperature].metrics) if last else {},
        diversity=diversity,
        per_category=per_category,
        heldout_nll=heldout_nll,
    )
    ids = [category.id for category in categories]
    matched = [(heat, own, benchmark.match("val", own)) for heat, own in detections.items()]
    own_frames = {
        "images": [image_frame(step, heat, truth, ids, *own) for heat, own in tables.items()],
        "detections": [frames.detection_frame(step, *own) for own in matched],
        "samples": [frames.sample_frame(step, predictor, truth, read) for read in (greedy, *sampled)],
        "mentions": [frames.mention_frame(step, truth, read) for read in (greedy, *sampled)],
    }
    joined = {name: pd.concat(own, ignore_index=True) for name, own in own_frames.items()}
    return Measurement(info, joined, official[GREEDY], source)


def figure_tables(
    truth: Truth, own: Read, categories: Sequence[Category], text: bool = True
) -> tuple[CategoryTable, ImageTable]:
    """What every diversity figure is made of; `text`: with those of harness.metrics.text."""
    return (
        category_table(truth, own.answers, own.verification, name_counts(categories)),
        image_table(truth, own.answers, own.verification, text),
    )


def _answers(
    predictor: Predictor,
    examples: Sequence[Example],
    truth: Truth,
    categories: Sequence[Category],
    settings: SampleSettings,
    seed: int,
    last: bool,
    progress: Callable[[int], None],
    kept: Kept,
) -> list[Read]:
    """The greedy answer, then the samples at each temperature; scored as far as something is made of their scores."""
    found = []
    for heat in settings.curve if last else (settings.temperature,):
        emitted = generate(predictor, examples, heat, settings, seed, progress, kept)
        own = read(predictor, examples, truth, categories, [samples[1:] for samples in emitted], heat)
        found.append(replace(own, scores=_scores(predictor, examples, own, kept)) if last else own)
        if heat == settings.temperature:
            greedy = read(predictor, examples, truth, categories, [samples[:1] for samples in emitted], GREEDY)
    return [replace(greedy, scores=_scores(predictor, examples, greedy, kept)), *found]


def _scores(predictor: Predictor, examples: Sequence[Example], own: Read, kept: Kept) -> list[MentionScore]:
    """Of every mention. A sequence that several samples of an image emit is scored once."""
    if not isinstance(predictor, Adapter):
        return [MentionScore(1.0, 1.0, 1.0)] * len(own.answers.mentions)
    emitted = [
        (image, sample.tokens, parsed)
        for image, pair in enumerate(zip(own.emitted, own.parsed, strict=True))
        for sample, parsed in zip(*pair, strict=True)
    ]
    different = {(image, tokens): parsed for image, tokens, parsed in emitted}
    items, scored = list(different.items()), []
    for start in range(0, len(items), CHUNK):
        chunk = dict(items[start : start + CHUNK])
        said = sha256(repr(list(chunk)).encode()).hexdigest()[:16]  # scores of these very sequences, nothing else
        rows = kept(f"scores-{own.temperature}-{start}-{said}", partial(_chunk, predictor, examples, chunk))
        scored += [[MentionScore(*values) for values in sequence] for sequence in rows]
    by_sequence = dict(zip(different, scored, strict=True))
    return [mention for image, tokens, _ in emitted for mention in by_sequence[image, tokens]]


def _chunk(
    adapter: Adapter, examples: Sequence[Example], different: Mapping[tuple[int, tuple[int, ...]], Parsed]
) -> list[list[tuple[float, float | None, float]]]:
    """The fields of each mention's score, for sequences by image and tokens."""
    images, sequences = zip(*different, strict=True)
    scored = score(adapter, [examples[image] for image in images], sequences, list(different.values()))
    return [[astuple(mention) for mention in own] for own in scored]


def _detections(truth: Truth, own: Read, source: str) -> list[Detection]:
    """One per greedy mention of a known name."""
    assert own.scores is not None
    rows = zip(own.answers.mentions.image, own.mentions, own.scores, strict=True)
    return [
        Detection(int(truth.image_ids[image]), mention.category_id, mention.box, mention_score.of(source))
        for image, mention, mention_score in rows
        if mention.category_id is not None
    ]


def _consensus(truth: Truth, categories: Sequence[Category], own: Read, source: str) -> list[Detection]:
    """One per cluster of the samples' mentions; their probability is that of the record's score source."""
    assert own.scores is not None
    values = np.array([mention_score.of(source) for mention_score in own.scores], dtype=np.float64)
    found = consensus(replace(own.answers.mentions, score=values), own.answers.samples)
    return [
        Detection(int(truth.image_ids[image]), categories[category].id, Box(*map(float, box)), float(value))
        for image, category, box, value in zip(found.image, found.category, found.boxes, found.scores, strict=True)
    ]


def _figures(
    table: CategoryTable, per_image: ImageTable, categories: Sequence[Category], evaluation: Evaluation
) -> tuple[Figures, dict[int, Figures]]:
    """Point estimates over all categories and by frequency, and the per-category table."""
    by_category = {name: values[0] for name, values in aggregate.category_figures(table).items()}  # each [C]
    frequency = [category.frequency for category in categories]
    means = aggregate.mean_figures(table, per_image, frequency)
    overall = {name: defined(values[0]) for name, values in means.items()}
    support = aggregate.support(table)["recall"]
    rows: dict[int, Figures] = {}
    for index, category in enumerate(categories):
        own = {name: defined(values[index]) for name, values in by_category.items()}
        reportable = float(support[index] >= aggregate.REPORTABLE)
        own_ap = evaluation.per_category.get(category.id)
        rows[category.id] = {"AP": own_ap, **own, "support": float(support[index]), "reportable": reportable}
    return overall, rows


def defined(value: float) -> float | None:
    """nan (undefined) -> None, as records hold it."""
    return None if math.isnan(value) else float(value)
