"""Reads emitted sequences into mentions and matches them with the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from harness.inference.confidence import MentionScore
from harness.metrics.samples.matching import Verification, verify
from harness.metrics.samples.mentions import Answers, Truth, answers_of
from harness.protocols import Predictor
from harness.sequence import Codec
from harness.types import Category, Example, Mention, Parsed, Sample

T = TypeVar("T")


class ReadSample(NamedTuple):
    """One sequence: as emitted, as parsed, and as text for a person."""

    sample: Sample
    parsed: Parsed
    text: str


@dataclass(frozen=True, slots=True)
class MatchedSamples:
    """The samples of every image at one temperature, parsed and matched: K of them, or the one greedy answer.

    samples: by image and sample. scores: of every mention of `answers`, if they were computed.
    """

    temperature: float
    samples: list[list[ReadSample]]
    answers: Answers
    verification: Verification
    scores: list[MentionScore] | None = None

    @property
    def mentions(self) -> list[Mention]:
        """Returns all mentions in the order of `answers`."""
        return [mention for of_image in self.samples for answer in of_image for mention in answer.parsed.mentions]


def read_and_match(
    predictor: Predictor,
    questions: Sequence[Example],
    truth: Truth,
    categories: Sequence[Category],
    emitted: Sequence[Sequence[Sample]],
    temperature: float,
) -> MatchedSamples:
    """Parses and matches the sequences emitted for each question. Sample k of all questions about an image forms one
    answer; a mention of a category that its question did not name counts like any other."""
    answers_to_questions = [
        [read_sample(predictor.codec, question, sample) for sample in of_question]
        for question, of_question in zip(questions, emitted, strict=True)
    ]
    whole = [
        [join_answers(parts) for parts in of_question]
        for of_question in group_by_image(truth, questions, answers_to_questions)
    ]
    answers = answers_of([[answer.parsed for answer in of_question] for of_question in whole], categories)
    return MatchedSamples(temperature, whole, answers, verify(truth, answers.mentions))


def read_sample(codec: Codec, question: Example, sample: Sample) -> ReadSample:
    """Parses the answer to a single question."""
    return ReadSample(sample, codec.decode(sample.tokens, question.width, question.height), codec.text(sample.tokens))


def group_by_image(
    truth: Truth, questions: Sequence[Example], to_questions: Sequence[Sequence[T]]
) -> list[list[tuple[T, ...]]]:
    """Groups answers by image of the truth and by sample: those to each question about the image, in their order. An
    image without questions has none."""
    by_image: dict[int, list[Sequence[T]]] = {image_id: [] for image_id in truth.image_ids.tolist()}
    for question, of_question in zip(questions, to_questions, strict=True):
        by_image[question.image_id].append(of_question)
    nothing: list[tuple[T, ...]] = [()] * len(to_questions[0])
    return [list(zip(*answers, strict=True)) or nothing for answers in by_image.values()]


def join_answers(parts: Sequence[ReadSample]) -> ReadSample:
    """Joins the answers to several questions into one: tokens, mentions and texts one after another, malformed
    entries and lenient mentions summed, truncated if one of them is."""
    if len(parts) == 1:
        return parts[0]
    samples, parsed, texts = [part.sample for part in parts], [part.parsed for part in parts], [p.text for p in parts]
    mentions: list[Mention] = []
    start = 0
    for part in parts:
        mentions += [mention.moved(start) for mention in part.parsed.mentions]
        start += len(part.sample.tokens)
    return ReadSample(
        Sample(
            tuple(t for s in samples for t in s.tokens),
            tuple(p for s in samples for p in s.log_probs),
            _common_expert(samples),
        ),
        Parsed(
            tuple(mentions),
            sum(part.malformed for part in parsed),
            any(part.truncated for part in parsed),
            sum(part.lenient for part in parsed),
        ),
        " ".join(texts),
    )


def _common_expert(samples: Sequence[Sample]) -> int | None:
    """Returns the expert that gave all of these; None where several did, or there are none."""
    experts = {sample.expert for sample in samples}
    return experts.pop() if len(experts) == 1 else None
