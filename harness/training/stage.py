"""What the training loop (harness.training.loop) asks of a stage, and what it gives it.

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
    """What all stages of a cell work on, and with.

    Args:
        adapter: the model that is trained, in place.
        examples: training images, or questions about them.
        seed: everything that is drawn depends on it.
        accelerator: the device, and the processes that train together.
        heldout: examples that are not trained on, e.g. to calibrate an objective.
        fresh: makes another model like the cell's base, for a stage that needs a second one in memory.
        workers: threads that read the coming images; they change nothing but the time it takes.
        cache: keeps what a stage makes when it begins, of the model as it is then: as NAME.parquet of the cell.
        log: gets a row of figures for each logged step.
        numbers: what the model computes in where it generates, as in an evaluation; float32 by default.
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
    """A step of training. updates: this process's rows of each optimizer step; equally many on every process.
    figures: logged with the step, the same on every process. pixels: reads the images; the adapter's own by default."""

    updates: Sequence[Sequence[Row]]
    figures: Mapping[str, float] = field(default_factory=dict)
    pixels: Pixels | None = None


class Stage(Protocol):
    """A stretch of training: `plan.steps` steps with an optimizer of their own."""

    @property
    def plan(self) -> Train:
        """How it is optimised, and when it is looked at; steps are counted from its start."""
        ...

    @property
    def objective(self) -> Objective:
        """What it minimises."""
        ...

    @property
    def reference(self) -> Adapter | None:
        """A model that becomes the one that the stage begins with, and stays so; None where it needs none."""
        ...

    def steps(self, work: Work, state: TrainingState, engine: DataParallel, start: int) -> Generator[Step, None, None]:
        """Yields what each step trains on, from the one after `state.step` to the stage's last.

        Each is asked for when the weights are those before it. start: the last step of the stages before.
        """
        ...


def micro_batch_of(plan: Train, rows: int) -> int | TokenBudget:
    """How much a forward pass takes of so many rows: all of them where the plan does not say."""
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
    """Of what the model samples in a step of training."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def stage_seed(seed: int, start: int) -> int:
    """Of what a stage draws that begins after step `start`: the first one from the cell's own seed, those after it from
    others, so that they do not repeat its batches."""
    return sampling_seed(seed, start) if start else seed
