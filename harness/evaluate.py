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
from numpy.typing import NDArray

from harness.generate import Kept, generate, unkept
from harness.metrics import aggregate
from harness.metrics.accumulate import Matches
from harness.metrics.consensus import consensus
from harness.metrics.diversity import CategoryTable, ImageTable, category_table, image_table
from harness.metrics.matching import Verification, verify
from harness.metrics.mentions import Answers, Truth, answers_of, name_counts, truth_of
from harness.protocols import Adapter, Benchmark, Predictor
from harness.records import GREEDY, EvaluationInfo, Figures, image_frame
from harness.scores import CHUNK, MentionScore, score
from harness.suite import SampleSettings
from harness.types import Box, Category, Detection, Evaluation, Example, Mention, Parsed, Sample


@dataclass(frozen=True, slots=True)
class Read:
    """The samples of every image at one temperature, read and matched: K of them, or the one greedy answer.

    emitted, parsed: by image and sample. scores: of every mention of `answers`, where they were computed.
    """

    temperature: float
    emitted: list[list[Sample]]
    parsed: list[list[Parsed]]
    answers: Answers
    verification: Verification
    scores: list[MentionScore] | None = None

    @property
    def mentions(self) -> list[Mention]:
        """In the order of `answers`."""
        return [mention for own in self.parsed for sample in own for mention in sample.mentions]


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
    frames = {
        "images": [image_frame(step, heat, truth, ids, *own) for heat, own in tables.items()],
        "detections": [_detection_frame(step, *own) for own in matched],
        "samples": [_sample_frame(step, predictor, truth, read) for read in (greedy, *sampled)],
        "mentions": [_mention_frame(step, truth, read) for read in (greedy, *sampled)],
    }
    joined = {name: pd.concat(own, ignore_index=True) for name, own in frames.items()}
    return Measurement(info, joined, official[GREEDY], source)


def read(
    predictor: Predictor,
    examples: Sequence[Example],
    truth: Truth,
    categories: Sequence[Category],
    emitted: list[list[Sample]],
    temperature: float,
) -> Read:
    """Reads and matches what was emitted for each example."""
    parsed = [
        [predictor.codec.decode(sample.tokens, example.width, example.height) for sample in own]
        for example, own in zip(examples, emitted, strict=True)
    ]
    answers = answers_of(parsed, categories)
    return Read(temperature, emitted, parsed, answers, verify(truth, answers.mentions))


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


# ---- tables ------------------------------------------------------------------------------------------------------


def _detection_frame(step: int, temperature: float, detections: Sequence[Detection], matches: Matches) -> pd.DataFrame:
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
            "temperature": temperature,
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


def _sample_frame(step: int, predictor: Predictor, truth: Truth, own: Read) -> pd.DataFrame:
    images, samples = own.answers.malformed.shape
    emitted = [sample for samples in own.emitted for sample in samples]
    return pd.DataFrame(
        {
            "step": step,
            "image_id": np.repeat(truth.image_ids, samples),
            "sample": np.tile(_sample_numbers(own), images),
            "temperature": own.temperature,
            "text": [predictor.codec.text(sample.tokens) for sample in emitted],
            "log_prob": [float(sum(sample.log_probs)) for sample in emitted],
            "malformed": own.answers.malformed.ravel(),
            "truncated": own.answers.truncated.ravel(),
        }
    )


def _sample_numbers(own: Read) -> NDArray[np.int64]:
    """0 is the greedy answer, the others count from 1."""
    return np.arange(own.answers.samples) + (own.temperature != GREEDY)


def _mention_frame(step: int, truth: Truth, own: Read) -> pd.DataFrame:
    """`name_score` and `location_score` of every mention; `category_score` of those that were scored: the greedy
    ones, and all of the last step."""
    columns, found, rows = own.answers.mentions, own.verification, own.mentions
    log_probs = [sample.log_probs for samples in own.emitted for sample in samples]
    sequence = columns.image * own.answers.samples + columns.sample
    before = np.searchsorted(sequence, sequence)  # row at which a mention's sequence begins
    category = [None if own.scores is None else item.category for item in own.scores or rows]  # type: ignore[union-attr]
    frame = pd.DataFrame(
        {
            "step": step,
            "image_id": truth.image_ids[columns.image],
            "sample": _sample_numbers(own)[columns.sample],
            "position": np.arange(len(rows)) - before,
            "category_id": [mention.category_id for mention in rows],
            "instance_id": [None if i < 0 else int(truth.ids[i]) for i in found.instance],
            "temperature": own.temperature,
            "name": [mention.name for mention in rows],
            **{side: columns.boxes[:, index] for index, side in enumerate("xywh")},
            "name_score": [
                math.exp(sum(log_probs[at][mention.start : mention.locations]))
                for at, mention in zip(sequence, rows, strict=True)
            ],
            "category_score": np.array(category, dtype=np.float64),
            "location_score": [
                math.exp(sum(log_probs[at][mention.locations : mention.end]))
                for at, mention in zip(sequence, rows, strict=True)
            ],
            "iou": found.iou,
            **{flag: getattr(found, flag) for flag in ("duplicate", "hallucination", "neutral", "unknown")},
        }
    )
    whole = ("step", "image_id", "sample", "position", "category_id", "instance_id")
    return frame.astype({"name": object, **dict.fromkeys(whole, "Int64")})


def gallery_frame(tables: Mapping[str, pd.DataFrame], image_ids: Sequence[int], temperature: float) -> pd.DataFrame:
    """The mentions of these images at one temperature (from the tables of one step), samples counted from 0; one row
    without a name for a sample that mentions nothing."""
    samples, mentions = (
        frame[frame["image_id"].isin(image_ids) & (frame["temperature"] == temperature)]
        for frame in (tables["samples"], tables["mentions"])
    )
    own = ["image_id", "sample"]
    said = mentions.assign(verified=mentions["instance_id"].notna())
    shown = [*own, "position", "name", "category_id", "x", "y", "w", "h", "verified"]
    frame = samples[own].astype("Int64").merge(said[shown], on=own, how="left").sort_values([*own, "position"])
    frame["verified"] = frame["verified"].astype("boolean").fillna(False).astype(bool)
    return frame.assign(sample=frame["sample"] - 1).reset_index(drop=True)
