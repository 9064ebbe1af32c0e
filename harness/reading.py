"""What a model emitted, read into mentions and matched with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.metrics.matching import Verification, verify
from harness.metrics.mentions import Answers, Truth, answers_of
from harness.protocols import Predictor
from harness.scores import MentionScore
from harness.types import Category, Example, Mention, Parsed, Sample


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
