"""A reward of another package: the F-score, squared."""

from __future__ import annotations

from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth
from harness.metrics.samples.reward import Reward, f_score


def worth(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    return f_score(truth, answers, verification) ** 2


REWARD = Reward(worth, equation="F^2", source="parts outside")
