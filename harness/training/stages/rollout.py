"""Draws samples of a model for a batch of images during training, and computes their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.metrics.samples.group_novelty import group_novelty
from harness.metrics.samples.reward import judged, pay
from harness.objectives.policy import advantages, has_spread
from harness.protocols import Predictor
from harness.suite.stage_base import Sampling
from harness.system import ranks
from harness.system.profiler import phase
from harness.training.checkpoints import random_numbers_kept
from harness.training.engines.data_parallel import DataParallel
from harness.training.schedule import draws
from harness.training.stage import Work, sampled_tokens, sampling_seed
from harness.types import Example, Sample

AT_A_TIME = 16
"""Images whose samples are drawn in one batch when a stage begins."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """K samples of each of I images.

    samples: by image and sample. rewards, advantages [I, K]; advantages are 0 in a group without spread. figures:
    monitored values: mean reward; share of groups without spread; objects, duplicates and malformed entries per
    sequence; share without an end; and nats per token, an estimate of the entropy where the temperature is 1.
    """

    examples: tuple[Example, ...]
    samples: tuple[tuple[Sample, ...], ...]
    rewards: Tensor
    advantages: Tensor
    figures: Mapping[str, float]

    @property
    def telling(self) -> list[int]:
        """Flags the images whose samples differ in reward: the others give no gradient."""
        return [index for index, spread in enumerate(has_spread(self.rewards).tolist()) if spread]


def rollout(
    predictor: Predictor,
    examples: Sequence[Example],
    reward: str,
    samples: int,
    temperature: float,
    max_tokens: int,
    seed: int,
    diversity: float = 0.0,
) -> Rollout:
    """Draws `samples` sequences of each image at `temperature`. Those of an image depend on the seed and the image.

    diversity: weight at which what a sample adds to the others of its image (harness.metrics.samples.group_novelty) is
    added to its reward; the figure `reward` stays that without it."""
    drawn = predictor.generate(examples, [temperature] * samples, seed, max_tokens)
    parsed = [
        [predictor.codec.decode(sample.tokens, example.width, example.height) for sample in of_image]
        for example, of_image in zip(examples, drawn, strict=True)
    ]
    truth, answers, verification = judged(examples, parsed)
    worth = torch.from_numpy(pay(reward, truth, answers, verification))
    sequences = answers.malformed.size
    log_probs = [value for of_image in drawn for sample in of_image for value in sample.log_probs]
    figures = {
        "reward": float(worth.mean()),
        "filtered": 1.0 - float(has_spread(worth).double().mean()),
        "objects": len(verification.instance) / sequences,
        "duplicates": float(verification.duplicate.sum()) / sequences,
        "malformed": float(answers.malformed.mean()),
        "truncated": float(answers.truncated.mean()),
        "entropy": -float(np.mean(log_probs)),
    }
    if diversity:
        novelty = torch.from_numpy(group_novelty(answers, verification))
        figures["novelty"] = float(novelty.mean())
        worth = worth + diversity * novelty
    return Rollout(tuple(examples), tuple(map(tuple, drawn)), worth, advantages(worth), figures)


Key = tuple[int, ...]
"""harness.types.Example.key"""


def keys(table: pd.DataFrame) -> list[Key]:
    """Returns the key of the example of each row of a table: its columns image_id and asked (null: open prompt)."""
    both = zip(table["image_id"], table["asked"], strict=True)
    return [(int(image), *(() if asked is None else map(int, asked))) for image, asked in both]


def sampled(work: Work, settings: Sampling) -> list[Example]:
    """Returns the training images of `own_samples`, of all processes."""
    drawn = next(draws(len(work.examples), 1, settings.images, 1, work.seed, "collision"))
    return [work.examples[draw.image] for draw in drawn]


def own_samples(work: Work, engine: DataParallel, settings: Sampling, start: int) -> list[Rollout]:
    """Draws samples, as the stage begins after step `start`, of as many training images as the settings have, in
    batches; each process has its share.

    The images are different and depend on the cell's seed; their samples depend on the seed and the step. The model
    stays in training mode, and the global random generators are unchanged.
    """
    examples = sampled(work, settings)[work.accelerator.process_index :: work.accelerator.num_processes]
    longest, seed, model = sampled_tokens(work), sampling_seed(work.seed, start), work.adapter.model
    batches = [examples[first : first + AT_A_TIME] for first in range(0, len(examples), AT_A_TIME)]
    with engine.whole(), phase("sampling"), random_numbers_kept(work.accelerator.device), work.generating():
        model.eval()
        drawn = [
            rollout(
                work.adapter,
                batch,
                settings.reward,
                settings.samples,
                settings.temperature,
                max_tokens=longest,
                seed=seed,
            )
            for batch in batches
        ]
        model.train()
    return drawn


def of_all_processes(work: Work, table: pd.DataFrame) -> pd.DataFrame:
    """Returns on rank 0 the rows of all processes, by image_id, those of an image in their order; on the others their
    rows."""
    frames = ranks.gathered(work.accelerator, table) or [table]
    filled = [frame for frame in frames if len(frame)] or frames[:1]  # an empty one has no column types
    return pd.concat(filled).sort_values("image_id", kind="stable", ignore_index=True)
