"""Computes rewards: how correct a whole sequence is, one number in [0, 1] per sample.

A reward is a pure function `(truth, answers, verification) -> [I, K]` of ground truth, K samples of each of I images,
and their verification. To add one, write its function and its line in REWARDS, or bring a Reward from another package
by the entry-point group `detmodes.rewards`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError
from harness.extensions import Extended
from harness.metrics.samples.matching import Verification, verify
from harness.metrics.samples.mentions import Answers, Floats, Truth, answers_of, truth_of
from harness.types import Category, Example, Parsed

DUPLICATE = 0.5
"""The amount that a duplicate subtracts from the total IoU: as much as a second, better box of an object could add to
it (a verified mention has an IoU of at least 0.5), so that claiming an object twice never pays."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward as it is listed. function: [I, K] of ground truth, answers and their verification; equation: in one
    line; source: who published it."""

    function: Callable[[Truth, Answers, Verification], Floats]
    equation: str
    source: str

    def __call__(self, truth: Truth, answers: Answers, verification: Verification) -> Floats:
        """Computes it, [I, K] in [0, 1]."""
        return self.function(truth, answers, verification)


def detection(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """Computes the F-score of matched IoU, [I, K] in [0, 1]:

        max(0, 2 * (sum of the verified mentions' IoUs - DUPLICATE * duplicates) / (claims + instances))

    claims: mentions + malformed entries + 1 if the sample has no end, without mentions that are neither right nor
    wrong (unmatched, of a category that is not annotated exhaustively; their duplicates do count). The score is 1
    where there is nothing to find and nothing is claimed.

    It is 1 for a member of the equivalence set, under any order and choice of names. A wrong box, a duplicate, a
    malformed entry or a missing end lowers it. So does leaving out a verified mention of an answer without
    duplicates: its IoU is at least 0.5, and the sum over the denominator at most that.
    """
    claims = _count_claims(answers, verification, verification.neutral & ~verification.duplicate) + answers.truncated
    total = _sums(
        answers, np.where(verification.instance >= 0, verification.iou, 0.0) - DUPLICATE * verification.duplicate
    )
    return _ratio(np.maximum(total, 0.0), claims + _instances(truth, answers))


def f_score(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """Computes the F-score of verified mentions, [I, K] in [0, 1]: 2 * verified / (mentions + malformed - neutral +
    instances), as in harness.metrics.samples.matching.f_score: beyond IoU 0.5 it does not matter how well a box fits.
    """
    verified = _sums(answers, verification.instance >= 0)
    return _ratio(verified, _count_claims(answers, verification, verification.neutral) + _instances(truth, answers))


def all_found(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """Computes whether an answer is right as a whole, [I, K]: 1 where every instance has a verified mention and each
    other mention is neither right nor wrong (unmatched, of a category that is not annotated exhaustively); else 0.

    A duplicate, a malformed entry, a missing end, a mention that is wrong, or an instance left out makes it 0. Where
    there is nothing to find, the empty answer has 1.
    """
    verified = verification.instance >= 0
    right = _sums(answers, verified)
    wrong = _count_claims(answers, verification, verification.neutral & ~verification.duplicate) - right
    return np.asarray((right == _instances(truth, answers)) & (wrong == 0) & ~answers.truncated, dtype=np.float64)


OURS: dict[str, Reward] = {
    "detection": Reward(
        detection,
        "max(0, 2 * (sum of the verified mentions' IoUs - duplicates / 2) / (claims + instances))",
        "ours: the F-score of matched IoU",
    ),
    "f_score": Reward(
        f_score,
        "2 * verified / (mentions + malformed entries - neutral ones + instances)",
        "the F-score of verified mentions, van Rijsbergen, 1979",
    ),
    "all_found": Reward(
        all_found,
        "1 where every instance is verified and nothing else is mentioned, else 0",
        "ours: exact match up to order and names",
    ),
}


REWARDS = Extended("reward", OURS, lambda part: isinstance(part, Reward))


def rewards(name: str, examples: Sequence[Example], parsed: Sequence[Sequence[Parsed]]) -> Floats:
    """Computes the reward of this name for K >= 1 samples of each of I examples, [I, K]. ConfigError for an unknown
    name."""
    if wrong := REWARDS.problems(name):
        raise ConfigError(*wrong)
    return pay(name, *judged(examples, parsed))


def pay(name: str, truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """Computes a reward by its name, [I, K]. ConfigError where one of another package gives anything else than that
    many numbers in [0, 1]."""
    with REWARDS.blaming(name, "computing it"):
        worth = np.asarray(REWARDS[name](truth, answers, verification), dtype=np.float64)
        if REWARDS.point(name) is not None:
            _require_worth(worth, answers.malformed.shape)
    return worth


def _require_worth(worth: Floats, expected: tuple[int, ...]) -> None:
    if worth.shape != expected:
        raise ValueError(f"expected one number for each sample, {list(expected)}; got {list(worth.shape)}")
    if not ((worth >= 0) & (worth <= 1)).all():
        raise ValueError(f"expected numbers in [0, 1], got {worth.min():g} to {worth.max():g}")


def judged(examples: Sequence[Example], parsed: Sequence[Sequence[Parsed]]) -> tuple[Truth, Answers, Verification]:
    """Returns the arguments of a reward for K >= 1 samples of each of I examples; categories are those that occur."""
    mentioned = {mention.category_id for samples in parsed for sample in samples for mention in sample.mentions}
    annotated = {instance.category_id for example in examples for instance in example.instances}
    categories = [Category(index, (), None) for index in annotated | mentioned if index is not None]
    truth, answers = truth_of(examples, categories), answers_of(parsed, categories)
    return truth, answers, verify(truth, answers.mentions)


def _sums(answers: Answers, values: NDArray[np.float64] | NDArray[np.bool_]) -> Floats:
    """Sums values of the mentions by sample, [I, K], each sum rounded once: answers that list the same mentions in
    another order have the same sum, to the last bit. Otherwise rounding would make equal rewards differ."""
    images, samples = answers.malformed.shape
    of: list[list[float]] = [[] for _ in range(images * samples)]
    for place, value in zip(answers.mentions.image * samples + answers.mentions.sample, values.tolist(), strict=True):
        of[place].append(value)
    return np.array([math.fsum(terms) for terms in of]).reshape(images, samples)


def _count_claims(answers: Answers, verification: Verification, neutral: NDArray[np.bool_]) -> Floats:
    """Counts mentions and malformed entries of each sample, [I, K], without the neutral ones."""
    return _sums(answers, np.ones(len(verification.instance))) - _sums(answers, neutral) + answers.malformed


def _instances(truth: Truth, answers: Answers) -> Floats:
    """Counts the instances of each image, [I, 1]."""
    counts: Floats = np.bincount(truth.image, minlength=len(answers.malformed)).astype(np.float64)
    return counts[:, None]


def _ratio(right: Floats, total: Floats) -> Floats:
    return np.asarray(np.divide(2.0 * right, total, out=np.ones_like(right), where=total > 0))
