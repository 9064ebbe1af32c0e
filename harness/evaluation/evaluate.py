"""Sequences -> mentions -> AP and diversity: everything that one evaluation of one model measures.

AP comes from the greedy answer, diversity from K samples, and at the last step AP of their consensus as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from harness.evaluation import sample_tables
from harness.evaluation.answers import Read, by_image, read
from harness.evaluation.generation import emit, in_batches
from harness.inference.confidence import MentionScore, score
from harness.metrics.samples import aggregate
from harness.metrics.samples.consensus import consensus
from harness.metrics.samples.diversity import CategoryTable, ImageTable, category_table, image_table
from harness.metrics.samples.mentions import Truth, name_counts, truth_of
from harness.metrics.stats import nan_to_none
from harness.protocols import Adapter, Benchmark, Predictor
from harness.records import GREEDY, EvaluationInfo, Figures
from harness.records.cache import NoCache, SharedCache
from harness.records.tables import detection_frame, image_frame
from harness.suite.schema import SampleSettings
from harness.system.profiler import phase
from harness.types import Box, Category, Detection, Evaluation, Example, Sample


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures, and the tables they are made of (see harness.records.record)."""

    info: EvaluationInfo
    tables: dict[str, pd.DataFrame]
    evaluation: Evaluation
    score_source: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says at one temperature to every question (to every image, with the open prompt). emitted: by
    question, the greedy answer and then K samples; scores: of their mentions, None for a sequence nothing is made of
    the scores of."""

    emitted: list[list[Sample]]
    scores: list[list[list[MentionScore] | None]]


GREEDY_ANSWER, SAMPLED, ALL, NONE = slice(0, 1), slice(1, None), slice(0, None), slice(0, 0)


def speak(
    predictor: Predictor,
    questions: Sequence[Example],
    settings: SampleSettings,
    seed: int,
    last: bool = True,
    progress: Callable[[int], None] = lambda images: None,
    cache: SharedCache | None = None,
) -> dict[float, Said]:
    """All that an evaluation asks of a model, by temperature; batches that the `cache` has are not asked again. The
    samples are scored at the `last` step only, the greedy answer always.

    Where several processes share the parts, each of them calls this, and the one that goes on has the answers.
    """
    cache = NoCache() if cache is None else cache
    said = {}
    for heat in settings.curve if last else (settings.temperature,):
        batches = {f"said-{heat}-{_name(batch)}": batch for batch in in_batches(questions, settings)}
        scored = SAMPLED if heat != settings.temperature else ALL if last else GREEDY_ANSWER
        make = partial(_batch, predictor, heat=heat, settings=settings, seed=seed, scored=scored)
        makers = {name: partial(make, own) for name, own in batches.items()}
        sizes = {name: len(own) for name, own in batches.items()}
        said[heat] = _said(cache.get_or_make_each(makers, partial(_count, progress, sizes)))
    return said


def _name(batch: Sequence[Example]) -> str:
    """Of no other batch: questions about one image have no category in common."""
    return "-".join(map(str, batch[0].key[:2]))


def _count(progress: Callable[[int], None], sizes: Mapping[str, int], name: str) -> None:
    progress(sizes[name])


def _batch(
    predictor: Predictor,
    batch: Sequence[Example],
    heat: float,
    settings: SampleSettings,
    seed: int,
    scored: slice,
) -> list[list[Any]]:
    """For each question and sample: tokens, log-probabilities, and the fields of each mention's score or None. A
    sequence that several samples emit is scored once. Scores are for detections: where there are no boxes, none are
    made."""
    scored = scored if predictor.codec.boxed else NONE
    with phase("generation"):
        emitted = emit(predictor, batch, heat, settings, seed)
    different = dict.fromkeys((image, sample.tokens) for image, own in enumerate(emitted) for sample in own[scored])
    with phase("scoring"):
        scores = dict(zip(different, _scores(predictor, batch, list(different)), strict=True))
    chosen = range(settings.samples + 1)[scored]
    return [
        [
            (sample.tokens, sample.log_probs, scores[image, sample.tokens] if index in chosen else None)
            for index, sample in enumerate(own)
        ]
        for image, own in enumerate(emitted)
    ]


def _scores(
    predictor: Predictor, batch: Sequence[Example], different: Sequence[tuple[int, tuple[int, ...]]]
) -> list[list[tuple[float, float | None, float]]]:
    """The fields of each mention's score, for sequences by image and tokens."""
    examples, sequences = [batch[image] for image, _ in different], [tokens for _, tokens in different]
    pairs = zip(examples, sequences, strict=True)
    parsed = [predictor.codec.decode(tokens, example.width, example.height) for example, tokens in pairs]
    if not isinstance(predictor, Adapter):
        return [[CERTAIN] * len(own.mentions) for own in parsed]
    return [[astuple(mention) for mention in own] for own in score(predictor, examples, sequences, parsed)]


CERTAIN = (1.0, 1.0, 1.0)
"""Of a predictor without probabilities."""


def _said(values: Sequence[list[list[Any]]]) -> Said:
    """What batches were kept as."""
    rows = [own for batch in values for own in batch]
    emitted = [[Sample(tuple(tokens), tuple(log_probs)) for tokens, log_probs, _ in own] for own in rows]
    scores = [[None if of is None else [MentionScore(*m) for m in of] for *_, of in own] for own in rows]
    return Said(emitted, scores)


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
    cache: SharedCache | None = None,
    questions: Sequence[Example] | None = None,
) -> Measurement:
    """Evaluates a predictor on the validation split; `last`: with all that is measured of the last step alone.
    What the model says is kept in the `cache`, batch by batch. questions: what is asked of its images; None:
    everything.

    A predictor without logits has no probabilities: its score source is "constant".
    """
    examples, categories = benchmark.split("val"), benchmark.categories
    truth = truth_of(examples, categories)
    source = score_source if isinstance(predictor, Adapter) else "constant"
    questions = examples if questions is None else questions
    said = speak(predictor, questions, settings, seed, last, progress, cache)
    with phase("matching and AP"):
        greedy, *sampled = _answers(predictor, questions, truth, categories, said, settings.temperature)
        boxed = predictor.codec.boxed
        detections = {GREEDY: _detections(truth, greedy, source) if boxed else []}
        if last and boxed:
            detections |= {read.temperature: _consensus(truth, categories, read, source) for read in sampled}
        official = {heat: benchmark.evaluate("val", own) for heat, own in detections.items()}
        matched = [(heat, own, benchmark.match("val", own)) for heat, own in detections.items()]
    tables = {read.temperature: figure_tables(truth, read, categories) for read in sampled}
    if not boxed:
        tables = {heat: (_without_boxes(table), images) for heat, (table, images) in tables.items()}
    info = EvaluationInfo(
        step=step,
        metrics=dict(official[GREEDY].metrics),
        consensus=dict(official[settings.temperature].metrics) if last and boxed else {},
        diversity=_means(*tables[settings.temperature], categories),
        heldout_nll=heldout_nll,
    )
    ids = [category.id for category in categories]
    own_frames = {
        "images": [image_frame(step, heat, truth, ids, *own) for heat, own in tables.items()],
        "detections": [detection_frame(step, *own) for own in matched],
        "samples": [sample_tables.sample_frame(step, truth, read) for read in (greedy, *sampled)],
        "mentions": [sample_tables.mention_frame(step, truth, read) for read in (greedy, *sampled)],
    }
    joined = {name: pd.concat(own, ignore_index=True) for name, own in own_frames.items()}
    return Measurement(info, joined, official[GREEDY], source)


def figure_tables(
    truth: Truth, own: Read, categories: Sequence[Category], text: bool = True
) -> tuple[CategoryTable, ImageTable]:
    """What every diversity figure is made of; `text`: with those of harness.metrics.samples.text."""
    return (
        category_table(truth, own.answers, own.verification, name_counts(categories)),
        image_table(truth, own.answers, own.verification, text),
    )


def _without_boxes(table: CategoryTable) -> CategoryTable:
    """The same, what is said of boxes being undefined."""
    return replace(table, box_spread=np.full_like(table.box_spread, np.nan))


def _answers(
    predictor: Predictor,
    questions: Sequence[Example],
    truth: Truth,
    categories: Sequence[Category],
    said: Mapping[float, Said],
    temperature: float,
) -> list[Read]:
    """The greedy answer, then the samples at each temperature."""

    def of(own: Said, part: slice, heat: float) -> Read:
        found = read(predictor, questions, truth, categories, [samples[part] for samples in own.emitted], heat)
        by_sample = by_image(truth, questions, [samples[part] for samples in own.scores])
        scores = [scored for samples in by_sample for parts in samples for scored in parts]
        known = [scored for scored in scores if scored is not None]
        return replace(found, scores=[m for scored in known for m in scored] if len(known) == len(scores) else None)

    greedy = of(said[temperature], GREEDY_ANSWER, GREEDY)
    return [greedy, *(of(own, SAMPLED, heat) for heat, own in said.items())]


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


def _means(table: CategoryTable, per_image: ImageTable, categories: Sequence[Category]) -> Figures:
    """Point estimates over all categories, and over those of each frequency."""
    means = aggregate.mean_figures(table, per_image, [category.frequency for category in categories])
    return {name: nan_to_none(values[0]) for name, values in means.items()}
