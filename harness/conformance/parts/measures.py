"""Checks of a measure: its value for answers of every quality about rendered pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from harness.conformance.parts.rewards import Answers as Sampled
from harness.conformance.parts.rewards import RewardSubject
from harness.conformance.subject import NotApplicableError, require
from harness.metrics.image_measures import IMAGE_MEASURES, ImageMeasure, Judged, image_columns
from harness.metrics.samples.matching import verify
from harness.metrics.samples.mentions import Answers, Floats, Truth, answers_of, truth_of
from harness.types import Example, Parsed

TOLERANCE = 1e-9
"""Difference by rounding: sums in another order."""


@dataclass(frozen=True)
class MeasureSubject:
    """A measure's name, and answers about rendered pictures; the last picture has nothing in it."""

    name: str

    @cached_property
    def measure(self) -> ImageMeasure:
        part = IMAGE_MEASURES[self.name]
        assert isinstance(part, ImageMeasure)
        return part

    @cached_property
    def pictures(self) -> RewardSubject:
        return RewardSubject(self.name)

    @cached_property
    def sampled(self) -> Sampled:
        """Answers of every quality, as many for each picture as the measure is asked about."""
        return [samples if self.measure.of == "samples" else samples[:1] for samples in self.pictures.mixed()]

    def columns(self, sampled: Sampled, examples: Sequence[Example] | None = None) -> tuple[Truth, Answers]:
        categories = self.pictures.benchmark.categories
        asked = self.pictures.examples if examples is None else examples
        return truth_of(asked, categories), answers_of(sampled, categories)

    def value(self, truth: Truth, answers: Answers) -> Floats:
        judged = Judged(answers, verify(truth, answers.mentions))
        return image_columns([self.name], truth, judged, judged)[self.name]

    def of(self, sampled: Sampled, examples: Sequence[Example] | None = None) -> Floats:
        return self.value(*self.columns(sampled, examples))


def described(subject: MeasureSubject) -> None:
    """Heading and meaning are one line each, as tables and `detmodes list measures` show them."""
    shown = subject.measure.described(subject.name)
    for key in ("heading", "meaning"):
        text = getattr(shown, key)
        require(
            isinstance(text, str) and bool(text.strip()) and "\n" not in text, f"{key}: expected a line, got {text!r}"
        )


def shapes(subject: MeasureSubject) -> None:
    """One finite number for each picture, or nan where it is undefined, whatever the answers are."""
    number = len(subject.sampled[0])
    for nothing in (Parsed((), 0, False), Parsed((), 3, True)):
        subject.of([[nothing] * number for _ in subject.sampled])
    subject.of(subject.sampled)


def defined(subject: MeasureSubject) -> None:
    """It is defined for some picture: of these, most have objects that several samples mention."""
    require(not np.isnan(subject.of(subject.sampled)).all(), "expected a number for some picture, got nan for all")


def independent(subject: MeasureSubject) -> None:
    """A picture's value depends on it and its samples, not on other pictures: intervals draw pictures again."""
    in_batch = subject.of(subject.sampled)
    for place, example in enumerate(subject.pictures.examples):
        _require_same("alone", subject.of([subject.sampled[place]], [example]), in_batch[place : place + 1])


def order(subject: MeasureSubject) -> None:
    """The order of a picture's samples, which means nothing, changes nothing."""
    if subject.measure.of == "greedy":
        raise NotApplicableError("it is about the greedy answer alone")
    _require_same(
        "in the reverse order",
        subject.of([samples[::-1] for samples in subject.sampled]),
        subject.of(subject.sampled),
    )


def codes(subject: MeasureSubject) -> None:
    """The numbers that stand for names mean nothing: others change nothing."""
    truth, answers = subject.columns(subject.sampled)
    name = answers.mentions.name.max(initial=0) - answers.mentions.name
    recoded = replace(answers, mentions=replace(answers.mentions, name=name))
    _require_same("with other codes of names", subject.value(truth, recoded), subject.value(truth, answers))


def repeatable(subject: MeasureSubject) -> None:
    """Asked again, it gives the same, and it leaves what it is given as it was."""
    truth, answers = subject.columns(subject.sampled)
    before = [array.copy() for array in _arrays(truth, answers)]
    first = subject.value(truth, answers)
    after = zip(_arrays(truth, answers), before, strict=True)
    same = all(np.array_equal(now, then, equal_nan=True) for now, then in after)
    require(same, "expected its arguments unchanged: copy what you sort")
    _require_same("when asked again", subject.value(truth, answers), first)


def _arrays(truth: Truth, answers: Answers) -> list[Any]:
    values = [getattr(part, field.name) for part in (truth, answers.mentions, answers) for field in fields(part)]
    return [value for value in values if isinstance(value, np.ndarray)]


CHECKS: dict[str, Callable[[MeasureSubject], None]] = {
    check.__name__: check for check in (described, shapes, defined, independent, order, codes, repeatable)
}


def _require_same(what: str, got: Floats, expected: Floats) -> None:
    same = np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    require(same, f"expected the same {what}, got {np.round(got, 6).tolist()} after {np.round(expected, 6).tolist()}")
