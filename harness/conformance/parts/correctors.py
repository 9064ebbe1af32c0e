"""Checks of a corrector of nSFT: what it makes of wrong answers about rendered pictures, whose errors are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, get_args

import numpy as np

from harness import registry
from harness.conformance.parts.rewards import RewardSubject
from harness.conformance.subject import require
from harness.metrics.diagnosis.codebook import KINDS, SampleErrors, sample_errors
from harness.metrics.samples.matching import VERIFIED_IOU, box_iou
from harness.metrics.samples.mentions import box_array
from harness.protocols import Correction, Corrector, Targets, Tokens
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, vocabulary_names
from harness.types import Box, Example, Mention, Parsed

BINS = 65
Objects = list[tuple[str, Box]]


class WrongAnswer(NamedTuple):
    """An answer as it was read, and its errors."""

    example: Example
    parsed: Parsed
    errors: SampleErrors


@dataclass(frozen=True)
class CorrectorSubject:
    """A corrector's name, and wrong answers about pictures in the tokens of a small vocabulary."""

    name: str

    @cached_property
    def pictures(self) -> RewardSubject:
        return RewardSubject(self.name)

    @cached_property
    def codec(self) -> Codec:
        categories = self.pictures.benchmark.categories
        return Codec(categories, NameVocabulary(vocabulary_names(categories), BINS), CoordinateSpace(BINS))

    @cached_property
    def wrong(self) -> list[WrongAnswer]:
        """Answers with every kind of error: objects left out, moved, renamed, repeated, made up; unreadable entries, no
        end."""
        answers = []
        for example in self.pictures.examples:
            for tokens in self._spoilt(example):
                parsed = self.codec.decode(tokens, example.width, example.height)
                ((errors,),) = sample_errors([example], [[parsed]])
                answers += [WrongAnswer(example, parsed, errors)] if errors.kinds else []
        return answers

    def _spoilt(self, example: Example) -> Iterator[Tokens]:
        right = [(mention.name, mention.box) for mention in self.pictures.right(example).mentions]
        names = list(self.codec.name_ids)
        corner = Box(0, 0, example.width / 8, example.height / 8)

        def encode(objects: Objects) -> Tokens:
            return self.codec.encode(objects, example.width, example.height)

        yield encode([*right, (names[0], corner)])
        if right:
            (name, box), *rest = right
            yield encode(rest)
            yield encode([(name, replace(box, x=box.x / 2, w=box.w * 0.7)), *rest])
            yield encode([(names[(names.index(name) + len(names) // 2) % len(names)], box), *rest])
            yield encode([*right, (name, box)])
            whole = encode(right)
            yield whole[:1] + whole[2:]
            yield whole[:-1]

    def made(self, targets: Targets = "canonical") -> Corrector:
        return registry.corrector(self.name, self.codec, targets)

    def correct(self, corrector: Corrector, place: int) -> Sequence[Correction]:
        return corrector(*self.wrong[place], np.random.default_rng([0, place]))

    @cached_property
    def corrections(self) -> list[tuple[Example, Correction]]:
        corrector = self.made()
        return [
            (wrong.example, correction)
            for place, wrong in enumerate(self.wrong)
            for correction in self.correct(corrector, place)
        ]

    def mentions(self, example: Example, tokens: Tokens) -> tuple[tuple[Mention, ...], int]:
        """Returns the mentions of tokens, and how many entries cannot be read."""
        parsed = self.codec.decode(tokens, example.width, example.height)
        return parsed.mentions, parsed.malformed


def made(subject: CorrectorSubject) -> None:
    """It is made from a codec and the order of targets, and corrects wrong answers."""
    for targets in get_args(Targets):
        require(callable(subject.made(targets)), f"expected a function for {targets} targets")
    require(bool(subject.corrections), f"expected corrections of {len(subject.wrong)} wrong answers, got none")


def fields(subject: CorrectorSubject) -> None:
    """A correction has a kind of the codebook, a question and a reply, and tokens of the vocabulary: an answer of one
    at least."""
    for _, correction in subject.corrections:
        require(correction.kind in KINDS, f"kind: expected one of {', '.join(KINDS)}, got {correction.kind!r}")
        for key in ("question", "reply"):
            text = getattr(correction, key)
            require(isinstance(text, str) and bool(text.strip()), f"{key}: expected words, got {text!r}")
        require(len(correction.answer) > 0, "answer: expected tokens, got none")
        size = subject.codec.tokens.size
        for key in ("context", "answer"):
            tokens = getattr(correction, key)
            good = all(isinstance(token, int) and 0 <= token < size for token in tokens)
            require(good, f"{key}: expected whole numbers from 0 to {size - 1}, got {tokens}")


def readable(subject: CorrectorSubject) -> None:
    """What it teaches can be read: context and answer are a list of objects, or its beginning."""
    for example, correction in subject.corrections:
        _, malformed = subject.mentions(example, correction.context + correction.answer)
        text = subject.codec.text(correction.context + correction.answer)
        require(not malformed, f"expected a list of objects, {malformed} of its entries cannot be read: {text!r}")


def right(subject: CorrectorSubject) -> None:
    """What it teaches is right: each object of an answer is one of the picture's, by its category and its box."""
    for example, correction in subject.corrections:
        before, _ = subject.mentions(example, correction.context)
        after, _ = subject.mentions(example, correction.context + correction.answer)
        for mention in after[len(before) :]:
            of_category = [item.box for item in example.instances if item.category_id == mention.category_id]
            boxes = box_array(of_category)
            overlap = box_iou(boxes, np.repeat(box_array([mention.box]), len(boxes), axis=0)).max(initial=0)
            require(
                bool(overlap >= VERIFIED_IOU),
                f"expected an object of image {example.image_id}, got {mention.name!r} with an IoU of {overlap:.2f}",
            )


def repeatable(subject: CorrectorSubject) -> None:
    """Corrections depend on the answer and the random numbers, not on what was corrected before."""
    forwards, backwards = subject.made(), subject.made()
    places = range(len(subject.wrong))
    first = [list(subject.correct(forwards, place)) for place in places]
    again = [list(subject.correct(backwards, place)) for place in reversed(places)][::-1]
    differing = [place for place in places if first[place] != again[place]]
    require(not differing, f"expected the same corrections again, {len(differing)} of {len(first)} answers got others")


CHECKS: dict[str, Callable[[CorrectorSubject], None]] = {
    check.__name__: check for check in (made, fields, readable, right, repeatable)
}
