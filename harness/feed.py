"""What the training loop (harness.train) asks of a stage, and what it gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from accelerate import Accelerator

from harness.engine import DataParallel
from harness.loading import Pixels
from harness.phases import Phases
from harness.protocols import Adapter
from harness.snapshots import State
from harness.step import Objective, Row
from harness.suite import Train
from harness.targets import target
from harness.types import Example


@dataclass(frozen=True, slots=True)
class Work:
    """What all stages of a cell work on, and with."""

    adapter: Adapter
    examples: Sequence[Example]
    seed: int
    accelerator: Accelerator
    workers: int
    phases: Phases


@dataclass(frozen=True, slots=True)
class Todo:
    """A step of training. updates: this process's rows of each optimizer step; equally many on every process.
    figures: logged with the step, the same on every process. pixels: the adapter's own by default."""

    updates: Sequence[Sequence[Row]]
    figures: Mapping[str, float] = field(default_factory=dict)
    pixels: Pixels | None = None


Feed = Callable[[int], Todo]
"""What is to be done in a step; asked once for each, in order, the weights being those before it."""


class Stage(Protocol):
    """A stretch of training: `plan.steps` steps with an optimizer of their own."""

    @property
    def plan(self) -> Train:
        """How it is optimised, and when it is looked at; steps are counted from its start."""
        ...

    @property
    def objective(self) -> Objective: ...

    @property
    def reference(self) -> Adapter | None:
        """A model that becomes the one that the stage begins with, and stays so; None where it needs none."""
        ...

    def feed(self, work: Work, state: State, engine: DataParallel, start: int) -> AbstractContextManager[Feed]:
        """From the step after `state.step` on. start: the last step of the stages before."""
        ...


def sampled_tokens(work: Work) -> int:
    """Where a sequence that the model samples is cut off: at twice the longest target."""
    return 2 * max(len(target(example, work.adapter.codec, "canonical")) for example in work.examples)


def sampling_seed(seed: int, step: int) -> int:
    """Of what the model samples in a step of training."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
