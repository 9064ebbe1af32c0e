"""What a model says about a batch of images while it is trained on it, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.metrics.reward import REWARDS, judged
from harness.objectives.policy import advantages, has_spread
from harness.protocols import Predictor
from harness.types import Example, Sample


@dataclass(frozen=True, slots=True)
class Rollout:
    """K samples of each of I images.

    samples: by image and sample. rewards, advantages [I, K]; advantages are 0 in a group without spread. figures: what
    is watched: mean reward; share of groups without spread; objects, duplicates and malformed entries per sequence;
    share without an end; and nats per token, an estimate of the entropy where the temperature is 1.
    """

    examples: tuple[Example, ...]
    samples: tuple[tuple[Sample, ...], ...]
    rewards: Tensor
    advantages: Tensor
    figures: Mapping[str, float]

    @property
    def telling(self) -> list[int]:
        """The images whose samples differ in reward: the others have nothing to teach."""
        return [index for index, spread in enumerate(has_spread(self.rewards).tolist()) if spread]


def rollout(
    predictor: Predictor,
    examples: Sequence[Example],
    reward: str,
    samples: int,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> Rollout:
    """Each image once, `samples` times at `temperature`. What an image gets depends on the seed and the image."""
    drawn = predictor.generate(examples, [temperature] * samples, seed, max_tokens)
    parsed = [
        [predictor.codec.decode(sample.tokens, example.width, example.height) for sample in own]
        for example, own in zip(examples, drawn, strict=True)
    ]
    truth, answers, found = judged(examples, parsed)
    worth = torch.from_numpy(REWARDS[reward](truth, answers, found))
    sequences = answers.malformed.size
    log_probs = [value for own in drawn for sample in own for value in sample.log_probs]
    figures = {
        "reward": float(worth.mean()),
        "filtered": 1.0 - float(has_spread(worth).double().mean()),
        "objects": len(found.instance) / sequences,
        "duplicates": float(found.duplicate.sum()) / sequences,
        "malformed": float(answers.malformed.mean()),
        "truncated": float(answers.truncated.mean()),
        "entropy": -float(np.mean(log_probs)),
    }
    return Rollout(tuple(examples), tuple(map(tuple, drawn)), worth, advantages(worth), figures)


Key = tuple[int, ...]
"""harness.types.Example.key"""


def keys(table: pd.DataFrame) -> list[Key]:
    """Of the example that each row of a table is about: by its columns image_id and asked (null: everything)."""
    both = zip(table["image_id"], table["asked"], strict=True)
    return [(int(image), *(() if asked is None else map(int, asked))) for image, asked in both]
