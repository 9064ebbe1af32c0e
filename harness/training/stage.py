"""Defines the interface between the training loop (harness.training.loop) and a stage.

In:  Work, what all stages of a cell share: the model, the training images, the seed, the processes.
Out: Stage.steps(), a generator with one Step for each step of training: the rows of its optimizer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from accelerate import Accelerator

from harness.errors import StageError
from harness.inference.precision import Numbers
from harness.protocols import Adapter, ContextLength
from harness.records.cache import Cache, NoCache
from harness.records.log import Log
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.objective import Objective
from harness.training.prefetch import Pixels
from harness.training.rows import Row, TokenBudget
from harness.types import Example


def _no_second_model() -> Adapter:
    raise StageError("expected a way to make a second model for this stage (Work.fresh), there is none")


@dataclass(frozen=True, slots=True)
class Work:
    """The data and tools of all stages of a cell.

    Args:
        adapter: the model that is trained, in place. examples: training images, or questions about them. seed: seed
        of all random numbers. accelerator: the device, and the processes of the training. heldout: examples that are
        not trained on, e.g. to calibrate an objective. fresh: makes another model like the cell's base, for a stage
        that needs a second one. workers: threads that read the next images; they change only the time it takes.
        cache: stores what a stage makes when it begins, from the model at that time: as NAME.parquet of the cell.
        log: gets a row of figures for each logged step. numbers: what the model computes in where it generates, as in
        an evaluation; float32 by default.
    """

    adapter: Adapter
    examples: Sequence[Example]
    seed: int
    accelerator: Accelerator
    heldout: Sequence[Example] = ()
    fresh: Callable[[], Adapter] = _no_second_model
    workers: int = 0
    cache: Cache = field(default_factory=NoCache)
    log: Log = field(default_factory=Log)
    numbers: Numbers | None = None

    def generating(self) -> AbstractContextManager[object]:
        """Around all that the model is asked to generate."""
        return nullcontext() if self.numbers is None else self.numbers.autocast()


@dataclass(frozen=True, slots=True)
class Step:
    """A step of training. updates: this process's rows of each optimizer update; equally many on every process.
    figures: logged with the step, the same on every process. pixels: reads the images; those of the adapter by
    default."""

    updates: Sequence[Sequence[Row]]
    figures: Mapping[str, float] = field(default_factory=dict)
    pixels: Pixels | None = None


class Stage(Protocol):
    """A part of training: `plan.steps` steps with a new optimizer."""

    @property
    def plan(self) -> Train:
        """Returns the settings of optimisation and the steps of evaluations; steps are counted from the stage's
        start."""
        ...

    @property
    def objective(self) -> Objective:
        """Returns the objective that the stage minimises."""
        ...

    @property
    def reference(self) -> Adapter | None:
        """Returns a model that is set to the one at the start of the stage and frozen; None where it needs none."""
        ...

    def steps(self, work: Work, state: TrainingState, engine: DataParallel, start: int) -> Generator[Step, None, None]:
        """Yields the steps of the stage, from the one after `state.step` to the last.

        Each is requested when the weights are those before it. start: the last step of the previous stages.
        """
        ...


def micro_batch_of(plan: Train, rows: int) -> int | TokenBudget:
    """Returns the size of a forward pass for this many rows: all of them if the plan does not limit it."""
    return TokenBudget(plan.micro_tokens) if plan.micro_tokens else plan.micro_batch or rows


def sampled_tokens(work: Work) -> int:
    """Where a sequence that the model samples is cut off: at twice the longest target, or at the last place that the
    model can read after the longest prompt."""
    codec, adapter = work.adapter.codec, work.adapter
    longest = 2 * max(len(target(example, codec, "canonical")) for example in work.examples)
    places = adapter.context_length if isinstance(adapter, ContextLength) else None
    if places is None:
        return longest
    prompt = max(len(codec.prompt(example)) for example in work.examples)
    return max(1, min(longest, places - prompt + 1))  # the last token is only predicted


def sampling_seed(seed: int, step: int) -> int:
    """Returns the seed of the model's samples in a step of training."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def stage_seed(seed: int, start: int) -> int:
    """Returns the seed of a stage that begins after step `start`: the cell's seed for the first stage, and others for
    later ones, so that they do not repeat its batches."""
    return sampling_seed(seed, start) if start else seed
