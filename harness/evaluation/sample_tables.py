"""Makes the tables of one evaluation (see harness.records.record), one row per detection, sample and mention."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.evaluation.answers import MatchedSamples
from harness.metrics.samples.mentions import Truth
from harness.records import GREEDY


def sample_frame(step: int, truth: Truth, matched: MatchedSamples) -> pd.DataFrame:
    """Makes the table of samples; of a mixture, with a column of the experts that gave them."""
    images, samples = matched.answers.malformed.shape
    answers = [answer for samples in matched.samples for answer in samples]
    experts = pd.array([answer.sample.expert for answer in answers], dtype="Int64")
    return pd.DataFrame(
        {
            "step": step,
            "image_id": np.repeat(truth.image_ids, samples),
            "sample": np.tile(_sample_numbers(matched), images),
            "temperature": matched.temperature,
            "text": [answer.text for answer in answers],
            "log_prob": [float(sum(answer.sample.log_probs)) for answer in answers],
            "malformed": matched.answers.malformed.ravel(),
            "truncated": matched.answers.truncated.ravel(),
            "lenient": matched.answers.lenient.ravel(),
            **({} if experts.isna().all() else {"expert": experts}),
        }
    )


def _sample_numbers(matched: MatchedSamples) -> NDArray[np.int64]:
    """Numbers samples: 0 is the greedy answer, the others count from 1."""
    return np.arange(matched.answers.samples) + (matched.temperature != GREEDY)


def mention_frame(step: int, truth: Truth, matched: MatchedSamples) -> pd.DataFrame:
    """Makes the table of mentions: `name_score` and `location_score` of every mention; `category_score` of those that
    were scored: the greedy ones, and all of the last step."""
    columns, verification, rows = matched.answers.mentions, matched.verification, matched.mentions
    log_probs = [answer.sample.log_probs for samples in matched.samples for answer in samples]
    sequence = columns.image * matched.answers.samples + columns.sample
    before = np.searchsorted(sequence, sequence)  # row at which a mention's sequence begins
    category = [None if matched.scores is None else item.category for item in matched.scores or rows]  # type: ignore[union-attr]
    frame = pd.DataFrame(
        {
            "step": step,
            "image_id": truth.image_ids[columns.image],
            "sample": _sample_numbers(matched)[columns.sample],
            "position": np.arange(len(rows)) - before,
            "category_id": [mention.category_id for mention in rows],
            "instance_id": [None if i < 0 else int(truth.ids[i]) for i in verification.instance],
            "temperature": matched.temperature,
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
            "iou": verification.iou,
            **{flag: getattr(verification, flag) for flag in ("duplicate", "hallucination", "neutral", "unknown")},
        }
    )
    whole = ("step", "image_id", "sample", "position", "category_id", "instance_id")
    return frame.astype({"name": object, **dict.fromkeys(whole, "Int64")})
