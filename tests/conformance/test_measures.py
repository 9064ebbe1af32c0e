"""A measure that keeps its promises passes its checks, and each check notices the one thing that it is there for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness import conformance
from harness.conformance.parts import measures
from harness.metrics.image_measures import IMAGE_MEASURES, ImageMeasure
from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth


def mentions_by_image(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """Mentions for each image: what keeps every promise."""
    del verification
    return np.bincount(answers.mentions.image, minlength=len(truth.image_ids)).astype(np.float64)


def spoil(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    answers.mentions.boxes[:] = 0
    return mentions_by_image(truth, answers, verification)


def first_sample(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    del verification
    of_first = answers.mentions.image[answers.mentions.sample == 0]
    return np.bincount(of_first, minlength=len(truth.image_ids)).astype(np.float64)


def sum_of_codes(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    del verification
    sums = np.bincount(answers.mentions.image, answers.mentions.name, minlength=len(truth.image_ids))
    return np.asarray(sums, dtype=np.float64)


BROKEN_MEASURES: dict[str, ImageMeasure] = {
    "described": ImageMeasure(mentions_by_image, meaning="two\nlines"),
    "shapes": ImageMeasure(lambda truth, answers, v: answers.malformed.astype(np.float64), meaning="m"),
    "defined": ImageMeasure(lambda truth, answers, v: mentions_by_image(truth, answers, v) * np.nan, meaning="m"),
    "independent": ImageMeasure(
        lambda truth, answers, v: mentions_by_image(truth, answers, v) / len(answers.malformed), meaning="m"
    ),
    "order": ImageMeasure(first_sample, meaning="m"),
    "codes": ImageMeasure(sum_of_codes, meaning="m"),
    "repeatable": ImageMeasure(spoil, meaning="m"),
}


@pytest.mark.parametrize("check", BROKEN_MEASURES)
def test_each_check_of_a_measure_notices_its_fault(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMAGE_MEASURES.ours, "broken", BROKEN_MEASURES[check])
    outcome = conformance.run_check(check, measures.CHECKS[check], measures.MeasureSubject("broken"))
    assert outcome.state == "failed", outcome


@pytest.mark.parametrize("of", ["samples", "greedy"])
def test_a_measure_that_keeps_its_promises_passes(of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMAGE_MEASURES.ours, "whole", ImageMeasure(mentions_by_image, meaning="m", of=of))
    states = {outcome.check: outcome.state for outcome in conformance.check_measure("whole")}
    skipped = {"order": "skipped"} if of == "greedy" else {}
    assert states == {**dict.fromkeys(measures.CHECKS, "passed"), **skipped}
