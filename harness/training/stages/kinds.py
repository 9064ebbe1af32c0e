"""Makes the stages after fine-tuning: from their settings in a suite (harness.suite.stage_settings) to a
harness.training.stage.Stage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelerate import Accelerator

from harness.errors import ConfigError
from harness.protocols import Adapter
from harness.suite.stage_base import Sampling, StageSettings
from harness.suite.stage_settings import STAGES
from harness.suite.train_settings import Train
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel, wants_sharding
from harness.training.objective import Objective
from harness.training.stage import Stage, Step, Work
from harness.training.stages import grpo, nsft, preference, sft
from harness.types import Example


def _nothing(settings: Any, examples: Sequence[Example]) -> list[str]:
    del settings, examples
    return []


class Kind(NamedTuple):
    """A kind of stage. make: makes the stage from its settings, its plan and the work of the cell. problems: lists
    why it cannot run with these training images, beyond the checks of every stage; called before the first stage of
    any cell begins."""

    make: Callable[[Any, Train, Work], Stage]
    problems: Callable[[Any, Sequence[Example]], list[str]] = _nothing


KINDS: dict[str, Kind] = {
    "grpo": Kind(grpo.stage),
    "dpo": Kind(preference.stage, preference.problems),
    "divpo": Kind(preference.stage, preference.problems),
    "spl": Kind(preference.stage, preference.problems),
    "gepo": Kind(preference.stage, preference.problems),
    "nsft": Kind(nsft.stage, nsft.problems),
    "sft": Kind(sft.stage),
}


def stage(settings: StageSettings, plan: Train, work: Work) -> Stage:
    """Makes the stage of these settings. ConfigError if it cannot be made."""
    if STAGES.point(settings.name) is None:
        return KINDS[settings.name].make(settings, plan, work)
    with STAGES.blaming(settings.name, "making it"):
        return ForeignStage(settings.name, settings.make(plan, work))  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class ForeignStage:
    """A stage of another package: what it raises names it."""

    name: str
    stage: Stage

    @property
    def plan(self) -> Train:
        return self.stage.plan

    @property
    def objective(self) -> Objective:
        return self.stage.objective

    @property
    def reference(self) -> Adapter | None:
        return self.stage.reference

    def steps(self, work: Work, state: TrainingState, engine: DataParallel, start: int) -> Generator[Step, None, None]:
        with STAGES.blaming(self.name, "its steps"):
            yield from self.stage.steps(work, state, engine, start)


def _problems(settings: StageSettings, examples: Sequence[Example]) -> list[str]:
    """Lists what the stage itself has against these training images."""
    if STAGES.point(settings.name) is None:
        return KINDS[settings.name].problems(settings, examples)
    tell = getattr(settings, "problems", None)
    with STAGES.blaming(settings.name, "problems(examples)"):
        return [] if tell is None else list(tell(examples))


def require_possible(settings: StageSettings, examples: Sequence[Example], accelerator: Accelerator) -> None:
    """Raises ConfigError if the stage cannot run with these training images, or on these processes; called before the
    first stage begins."""
    if wants_sharding(accelerator):
        raise ConfigError("then: a chain of stages runs where every process has the whole model; not with FSDP, ZeRO")
    problems = []
    processes = accelerator.num_processes
    if isinstance(settings, Sampling) and settings.amount.drawn and settings.images > len(examples):
        problems += [f"then.images: expected at most the {len(examples)} training images, got {settings.images}"]
    if settings.batch % processes:
        expected = f"expected a multiple of {processes} processes"
        problems += [f"then.{settings.per_step}: {expected}, got {settings.batch}"]
    problems += _problems(settings, examples)
    if problems:
        raise ConfigError(*problems)
