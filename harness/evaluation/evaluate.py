"""Measures everything of one evaluation of one model: from sequences to mentions to AP and diversity.

AP comes from the greedy answer, diversity from K samples, and at the last step AP of their consensus as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness.evaluation import sample_tables
from harness.evaluation.answers import MatchedSamples, group_by_image, read_and_match
from harness.evaluation.scored_samples import (
    GREEDY_ANSWER,
    SAMPLED,
    EvaluationSettings,
    ScoredSamples,
    sample_and_score,
)
from harness.inference.confidence import MentionScore
from harness.metrics.image_measures import Judged, image_columns
from harness.metrics.samples import aggregate
from harness.metrics.samples.consensus import consensus
from harness.metrics.samples.diversity import CategoryTable, ImageTable, category_table, image_table
from harness.metrics.samples.mentions import Answers, Floats, Truth, name_counts, truth_of
from harness.metrics.stats import nan_to_none
from harness.protocols import Adapter, Benchmark, Predictor
from harness.records import GREEDY, EvaluationInfo, Figures
from harness.records.cache import SharedCache
from harness.records.tables import detection_frame, image_frame
from harness.system.profiler import phase
from harness.types import Box, Category, Detection, Evaluation, Example


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures, and the tables from which they are made (see harness.records.record)."""

    info: EvaluationInfo
    tables: dict[str, pd.DataFrame]
    evaluation: Evaluation
    score_source: str


def measure(
    predictor: Predictor,
    benchmark: Benchmark,
    settings: EvaluationSettings,
    *,
    step: int,
    heldout_nll: float | None,
    questions: Sequence[Example] | None = None,
    progress: Callable[[int], None] = lambda images: None,
    cache: SharedCache | None = None,
) -> Measurement:
    """Evaluates a predictor on the validation split.

    Args:
        predictor: A predictor; one without logits has no probabilities, and its score source is "constant".
        benchmark: The images and the official figures. settings: Settings of the evaluation. step: Training step, for
        the tables. heldout_nll: Held-out loss for the record, in nats per token. questions: Questions about the
        images; the images themselves by default. progress: Called with the number of finished images. cache: Stores
        the model's answers, batch by batch.
    """
    examples, categories = benchmark.split("val"), benchmark.categories
    truth = truth_of(examples, categories)
    source = settings.score if isinstance(predictor, Adapter) else "constant"
    questions, last = examples if questions is None else questions, settings.last
    by_temperature = sample_and_score(predictor, questions, settings, progress, cache)
    with phase("matching and AP"):
        greedy, sampled = _match_answers(predictor, questions, truth, categories, by_temperature, settings)
        boxed = predictor.codec.boxed
        detections = {GREEDY: _detections(truth, greedy, source) if boxed else []}
        if last and boxed:
            detections |= {read.temperature: _consensus(truth, categories, read, source) for read in sampled}
        official = {heat: benchmark.evaluate("val", rows) for heat, rows in detections.items()}
        matched = [(heat, rows, benchmark.match("val", rows)) for heat, rows in detections.items()]
        further = {
            read.temperature: _further(settings.measures, truth, read, greedy, source, boxed) for read in sampled
        }
    tables = {read.temperature: figure_tables(truth, read, categories) for read in sampled}
    if not boxed:
        tables = {heat: (_without_boxes(table), images) for heat, (table, images) in tables.items()}
    info = EvaluationInfo(
        step=step,
        metrics=dict(official[GREEDY].metrics),
        consensus=dict(official[settings.sample.temperature].metrics) if last and boxed else {},
        diversity=_means(*tables[settings.sample.temperature], categories, further[settings.sample.temperature]),
        heldout_nll=heldout_nll,
    )
    ids = [category.id for category in categories]
    own_frames = {
        "images": [image_frame(step, heat, truth, ids, *table, further[heat]) for heat, table in tables.items()],
        "detections": [detection_frame(step, *match) for match in matched],
        "samples": [sample_tables.sample_frame(step, truth, read) for read in (greedy, *sampled)],
        "mentions": [sample_tables.mention_frame(step, truth, read) for read in (greedy, *sampled)],
    }
    joined = {name: pd.concat(frames, ignore_index=True) for name, frames in own_frames.items()}
    return Measurement(info, joined, official[GREEDY], source)


def figure_tables(
    truth: Truth, matched: MatchedSamples, categories: Sequence[Category], text: bool = True
) -> tuple[CategoryTable, ImageTable]:
    """Computes the tables of every diversity figure; `text`: with the figures of harness.metrics.samples.text."""
    return (
        category_table(truth, matched.answers, matched.verification, name_counts(categories)),
        image_table(truth, matched.answers, matched.verification, text),
    )


def _without_boxes(table: CategoryTable) -> CategoryTable:
    """Sets the figures about boxes to undefined."""
    return replace(table, box_spread=np.full_like(table.box_spread, np.nan))


def _match_answers(
    predictor: Predictor,
    questions: Sequence[Example],
    truth: Truth,
    categories: Sequence[Category],
    by_temperature: Mapping[float, ScoredSamples],
    settings: EvaluationSettings,
) -> tuple[MatchedSamples, list[MatchedSamples]]:
    """Matches the greedy answer and the samples at each temperature with the ground truth, and adds their scores."""
    greedy, *sampled = [
        replace(
            read_and_match(
                predictor, questions, truth, categories, [samples[part] for samples in scored.emitted], heat
            ),
            scores=_flat_scores(truth, questions, [samples[part] for samples in scored.scores]),
        )
        for scored, part, heat in [
            (by_temperature[settings.sample.temperature], GREEDY_ANSWER, GREEDY),
            *((scored, SAMPLED, heat) for heat, scored in by_temperature.items()),
        ]
    ]
    return greedy, sampled


def _flat_scores(
    truth: Truth, questions: Sequence[Example], scores: Sequence[Sequence[list[MentionScore] | None]]
) -> list[MentionScore] | None:
    """Returns the score of every mention, in the order of matched samples; None where a sequence was not scored."""
    flat: list[MentionScore] = []
    for samples in group_by_image(truth, questions, scores):
        for answers in samples:
            for scored in answers:
                if scored is None:
                    return None
                flat += scored
    return flat


def _detections(truth: Truth, matched: MatchedSamples, source: str) -> list[Detection]:
    """Makes one detection per greedy mention of a known name."""
    assert matched.scores is not None
    rows = zip(matched.answers.mentions.image, matched.mentions, matched.scores, strict=True)
    return [
        Detection(int(truth.image_ids[image]), mention.category_id, mention.box, mention_score.of(source))
        for image, mention, mention_score in rows
        if mention.category_id is not None
    ]


def _consensus(truth: Truth, categories: Sequence[Category], matched: MatchedSamples, source: str) -> list[Detection]:
    """Makes one detection per cluster of the samples' mentions, whose probability is that of the record's score
    source."""
    assert matched.scores is not None
    clusters = consensus(_with_scores(matched, source).mentions, matched.answers.samples)
    return [
        Detection(int(truth.image_ids[image]), categories[category].id, Box(*map(float, box)), float(value))
        for image, category, box, value in zip(
            clusters.image, clusters.category, clusters.boxes, clusters.scores, strict=True
        )
    ]


def _further(
    names: Sequence[str], truth: Truth, sampled: MatchedSamples, greedy: MatchedSamples, source: str, boxed: bool
) -> dict[str, Floats]:
    """Computes the measures of other packages for each image, by name, each [I]."""
    samples, alone = (Judged(_with_scores(matched, source), matched.verification) for matched in (sampled, greedy))
    return image_columns(names, truth, samples, alone, boxed)


def _with_scores(matched: MatchedSamples, source: str) -> Answers:
    """Returns the answers with the scores of their mentions, where there are any."""
    if matched.scores is None:
        return matched.answers
    values = np.array([mention_score.of(source) for mention_score in matched.scores], dtype=np.float64)
    return replace(matched.answers, mentions=replace(matched.answers.mentions, score=values))


def _means(
    table: CategoryTable, per_image: ImageTable, categories: Sequence[Category], further: Mapping[str, Floats]
) -> Figures:
    """Computes point estimates over all categories, and over those of each frequency; and of other packages'
    measures."""
    means = aggregate.mean_figures(table, per_image, [category.frequency for category in categories])
    means |= aggregate.mean_over_images(further)
    return {name: nan_to_none(values[0]) for name, values in means.items()}
