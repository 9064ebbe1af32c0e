"""Sequences -> mentions -> AP and diversity: everything that one evaluation of one model measures.

AP comes from the greedy answer, diversity from the K samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.generate import generate
from harness.metrics import aggregate
from harness.metrics.accumulate import Matches
from harness.metrics.diversity import category_rows, image_row
from harness.metrics.matching import MatchedMention, match_sample
from harness.protocols import Adapter, Benchmark, Predictor
from harness.records import EvaluationInfo, Figures, image_frame
from harness.scores import MentionScore, score
from harness.sequence import Codec
from harness.suite import SampleSettings
from harness.types import Category, Detection, Evaluation, Example, Parsed, Sample

REPORTABLE = 10
"""A category's figure is reportable if it rests on at least this many images."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One sequence of one image, read and matched. `sample` 0 is the greedy answer."""

    example: Example
    sample: int
    temperature: float
    emitted: Sample
    parsed: Parsed
    matched: tuple[MatchedMention, ...]


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
    progress: Callable[[int], None] = lambda images: None,
) -> Measurement:
    """Evaluates a predictor on the validation split.

    A predictor without logits has no probabilities: its score source is "constant".
    """
    examples = benchmark.split("val")
    emitted = generate(predictor, examples, settings, seed, progress)
    answers = [_read(predictor.codec, example, own, settings) for example, own in zip(examples, emitted, strict=True)]
    source = score_source if isinstance(predictor, Adapter) else "constant"
    scores = _greedy_scores(predictor, answers)
    detections = _detections(answers, scores, source)
    evaluation = benchmark.evaluate("val", detections)
    rows = [row for own in answers for row in _category_rows(own)]
    images = [image_row(own[0].example, [(a.parsed, a.matched) for a in own[1:]]) for own in answers]
    table = aggregate.category_table(rows, [e.image_id for e in examples], benchmark.categories, settings.samples)
    per_image = aggregate.image_table(images, [e.image_id for e in examples])
    diversity, per_category = _figures(table, per_image, benchmark.categories, evaluation)
    info = EvaluationInfo(
        step=step,
        metrics=dict(evaluation.metrics),
        diversity=diversity,
        per_category=per_category,
        heldout_nll=heldout_nll,
    )
    tables = {
        "images": image_frame(step, rows, images),
        "detections": _detection_frame(step, detections, benchmark.match("val", detections)),
        "samples": _sample_frame(step, predictor.codec, answers),
        "mentions": _mention_frame(step, answers, scores),
    }
    return Measurement(info, tables, evaluation, source)


def _read(codec: Codec, example: Example, emitted: Sequence[Sample], settings: SampleSettings) -> list[Answer]:
    answers = []
    for index, sample in enumerate(emitted):
        parsed = codec.decode(sample.tokens, example.width, example.height)
        matched = tuple(match_sample(example, parsed.mentions))
        answers.append(Answer(example, index, settings.temperature if index else 0.0, sample, parsed, matched))
    return answers


def _greedy_scores(predictor: Predictor, answers: Sequence[Sequence[Answer]]) -> list[list[MentionScore]]:
    greedy = [own[0] for own in answers]
    if not isinstance(predictor, Adapter):
        return [[MentionScore(1.0, 1.0, 1.0)] * len(answer.parsed.mentions) for answer in greedy]
    return score(
        predictor,
        [answer.example for answer in greedy],
        [answer.emitted.tokens for answer in greedy],
        [answer.parsed for answer in greedy],
    )


def _detections(
    answers: Sequence[Sequence[Answer]], scores: Sequence[Sequence[MentionScore]], source: str
) -> list[Detection]:
    """One per greedy mention of a known name."""
    return [
        Detection(own[0].example.image_id, mention.category_id, mention.box, mention_score.of(source))
        for own, own_scores in zip(answers, scores, strict=True)
        for mention, mention_score in zip(own[0].parsed.mentions, own_scores, strict=True)
        if mention.category_id is not None
    ]


def _category_rows(own: Sequence[Answer]) -> list[Any]:
    return category_rows(own[0].example, [(answer.parsed.mentions, answer.matched) for answer in own[1:]])


def _figures(
    table: aggregate.CategoryTable,
    per_image: aggregate.ImageTable,
    categories: Sequence[Category],
    evaluation: Evaluation,
) -> tuple[Figures, dict[int, Figures]]:
    """Point estimates over all categories and by frequency, and the per-category table."""
    by_category = {name: values[0] for name, values in aggregate.category_figures(table).items()}  # each [C]
    frequency = [category.frequency for category in categories]
    overall: Figures = {}
    for name, values in by_category.items():
        for group, mean in aggregate.by_frequency(values[None], frequency).items():
            overall[name if group == "all" else f"{name}/{group}"] = defined(mean[0])
    overall |= {name: defined(values[0]) for name, values in aggregate.image_figures(per_image).items()}
    support = aggregate.support(table)["recall"]
    rows: dict[int, Figures] = {}
    for index, category in enumerate(categories):
        own = {name: defined(values[index]) for name, values in by_category.items()}
        reportable = float(support[index] >= REPORTABLE)
        own_ap = evaluation.per_category.get(category.id)
        rows[category.id] = {"AP": own_ap, **own, "support": float(support[index]), "reportable": reportable}
    return overall, rows


def defined(value: float) -> float | None:
    """nan (undefined) -> None, as records hold it."""
    return None if math.isnan(value) else float(value)


# ---- tables ------------------------------------------------------------------------------------------------------


def _detection_frame(step: int, detections: Sequence[Detection], matches: Matches) -> pd.DataFrame:
    """Those that count first, in the order in which they are ranked; the rest (capped, or of a category that
    was not verified for the image) after them."""
    order = [
        *matches.detection.tolist(),
        *sorted(set(range(len(detections))) - set(matches.detection.tolist())),
    ]
    rest = len(detections) - len(matches.detection)
    chosen = [detections[index] for index in order]
    left_out = np.zeros_like(matches.true_positive) if matches.left_out is None else matches.left_out
    return pd.DataFrame(
        {
            "step": step,
            "image_id": [d.image_id for d in chosen],
            "category_id": [d.category_id for d in chosen],
            **{side: [getattr(d.box, side) for d in chosen] for side in ("x", "y", "w", "h")},
            "score": np.array([d.score for d in chosen], dtype=np.float64),
            "evaluated": np.arange(len(chosen)) < len(matches.detection),
            "true_positive": np.concatenate([matches.true_positive, np.zeros(rest, np.uint16)]),
            "left_out": np.concatenate([left_out, np.zeros(rest, np.uint16)]),
            "ignored": np.concatenate([matches.ignored, np.zeros(rest, np.bool_)]),
        }
    )


def _sample_frame(step: int, codec: Codec, answers: Sequence[Sequence[Answer]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "step": step,
            "image_id": answer.example.image_id,
            "sample": answer.sample,
            "temperature": answer.temperature,
            "text": codec.text(answer.emitted.tokens),
            "log_prob": sum(answer.emitted.log_probs),
            "malformed": answer.parsed.malformed,
            "truncated": answer.parsed.truncated,
        }
        for own in answers
        for answer in own
    )


def _mention_frame(
    step: int, answers: Sequence[Sequence[Answer]], scores: Sequence[Sequence[MentionScore]]
) -> pd.DataFrame:
    """`name_score` and `location_score` of every mention; `category_score` of the greedy ones only, which are
    the ones that become detections."""
    rows = []
    for own, greedy in zip(answers, scores, strict=True):
        for answer in own:
            for position, (mention, match) in enumerate(zip(answer.parsed.mentions, answer.matched, strict=True)):
                log_probs = answer.emitted.log_probs
                rows.append(
                    {
                        "step": step,
                        "image_id": answer.example.image_id,
                        "sample": answer.sample,
                        "position": position,
                        "name": mention.name,
                        "category_id": mention.category_id,
                        **{side: getattr(mention.box, side) for side in ("x", "y", "w", "h")},
                        "name_score": math.exp(sum(log_probs[mention.start : mention.locations])),
                        "category_score": greedy[position].category if answer.sample == 0 else None,
                        "location_score": math.exp(sum(log_probs[mention.locations : mention.end])),
                        "instance_id": match.instance_id,
                        "iou": match.iou,
                        "duplicate": match.duplicate,
                        "hallucination": match.hallucination,
                        "neutral": match.neutral,
                        "unknown": match.unknown,
                    }
                )
    integer = dict.fromkeys(("step", "image_id", "sample", "position", "category_id", "instance_id"), "Int64")
    columns = [*integer, "name", "x", "y", "w", "h", "name_score", "category_score", "location_score", "iou"]
    flags = ["duplicate", "hallucination", "neutral", "unknown"]
    frame = pd.DataFrame(rows, columns=[*columns, *flags])
    return frame.astype({**integer, **dict.fromkeys(flags, bool), "category_score": float})
