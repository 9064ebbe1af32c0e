"""The tables of one evaluation (see harness.records), one row per detection, sample and mention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.metrics.accumulate import Matches
from harness.metrics.mentions import Truth
from harness.reading import Read
from harness.records import GREEDY
from harness.types import Detection


def detection_frame(step: int, temperature: float, detections: Sequence[Detection], matches: Matches) -> pd.DataFrame:
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


def sample_frame(step: int, truth: Truth, own: Read) -> pd.DataFrame:
    images, samples = own.answers.malformed.shape
    said = [answer for samples in own.said for answer in samples]
    return pd.DataFrame(
        {
            "step": step,
            "image_id": np.repeat(truth.image_ids, samples),
            "sample": np.tile(_sample_numbers(own), images),
            "temperature": own.temperature,
            "text": [answer.text for answer in said],
            "log_prob": [float(sum(answer.sample.log_probs)) for answer in said],
            "malformed": own.answers.malformed.ravel(),
            "truncated": own.answers.truncated.ravel(),
        }
    )


def _sample_numbers(own: Read) -> NDArray[np.int64]:
    """0 is the greedy answer, the others count from 1."""
    return np.arange(own.answers.samples) + (own.temperature != GREEDY)


def mention_frame(step: int, truth: Truth, own: Read) -> pd.DataFrame:
    """`name_score` and `location_score` of every mention; `category_score` of those that were scored: the greedy
    ones, and all of the last step."""
    columns, found, rows = own.answers.mentions, own.verification, own.mentions
    log_probs = [answer.sample.log_probs for samples in own.said for answer in samples]
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
                math.exp(sum(log_probs[at][mention.name_start : mention.name_end]))
                for at, mention in zip(sequence, rows, strict=True)
            ],
            "category_score": np.array(category, dtype=np.float64),
            "location_score": [
                math.exp(sum(log_probs[at][mention.box_start : mention.box_end]))
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
