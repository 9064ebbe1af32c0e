"""What the training loop (harness.training.loop) asks of a stage, and what it gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
from accelerate import Accelerator

from harness.protocols import Adapter
from harness.sequence import Codec
from harness.sequence.targets import target
from harness.suite.schema import Train
from harness.system.profiler import Phases
from harness.training.engines.data_parallel import DataParallel
from harness.training.objective import Objective
from harness.training.prefetch import Pixels
from harness.training.rows import Row
from harness.training.snapshots import State
from harness.types import Example

KeepTable = Callable[[str, Callable[[], pd.DataFrame]], pd.DataFrame]
"""What a stage makes once, when it begins, of the model as it is then: (name, make) -> what `make` makes, or what it
made in an earlier process. All processes make it together, and get rank 0's. It ends as NAME.parquet of the cell."""


def unkept(name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A KeepTable of one process that keeps nothing."""
    del name
    return make()


@dataclass(frozen=True, slots=True)
class Work:
    """What all stages of a cell work on, and with."""

    adapter: Adapter
    examples: Sequence[Example]
    seed: int
    accelerator: Accelerator
    workers: int
    phases: Phases
    table: KeepTable = unkept


@dataclass(frozen=True, slots=True)
class Todo:
    """A step of training. updates: this process's rows of each optimizer step; equally many on every process.
    figures: logged with the step, the same on every process. pixels: the adapter's own by default."""

    updates: Sequence[Sequence[Row]]
    figures: Mapping[str, float] = field(default_factory=dict)
    pixels: Pixels | None = None


Feed = Callable[[int], Todo]
"""What is to be done in a step; asked once for each, in order, the weights being those before it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stage after fine-tuning may be made with, beside its settings. heldout: examples that are not trained on;
    fresh: makes another model like the cell's base, for a stage that needs a second one in memory."""

    examples: Sequence[Example]
    heldout: Sequence[Example]
    seed: int
    fresh: Callable[[], Adapter]
    codec: Codec


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


def stage_seed(seed: int, start: int) -> int:
    """Of what a stage draws that begins after step `start`: the first one from the cell's own seed, those after it from
    others, so that they do not repeat its batches."""
    return sampling_seed(seed, start) if start else seed
