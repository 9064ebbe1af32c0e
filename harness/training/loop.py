"""One linear training loop over the stages of a cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import pandas as pd
from accelerate import Accelerator

from harness.errors import ConfigError
from harness.protocols import Adapter, Checkpointed
from harness.records.log import Log
from harness.suite.schema import Train
from harness.system.failures import require_finite
from harness.system.profiler import Phases, unmeasured
from harness.training.engines.data_parallel import DataParallel, wants_sharding
from harness.training.engines.optimizer import optimizer_of, warm_up
from harness.training.finetuning import FineTuning
from harness.training.objective import Objective
from harness.training.snapshots import State, random_numbers_kept
from harness.training.stage import Stage, Todo, Work, unkept
from harness.training.step import accumulate, added, means
from harness.types import Example

Evaluate = Callable[[int], None]
Progress = Callable[[int, float], None]


class Keeper(Protocol):
    """What outlives a killed process (harness.run.resume), and the log of training."""

    log: Log

    def reached(self, resumes: bool) -> int:
        """The step of the state that there is of an earlier process, 0 if there is none. resumes: see State."""
        ...

    def restore(self, state: State) -> None:
        """Puts that state in place, its log included; does nothing if there is none."""
        ...

    def after_step(self, state: State, evaluated: bool) -> None:
        """May save the state, and may stop training. evaluated: the model is going to be evaluated as it is now."""
        ...

    def table(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """See harness.training.stage.KeepTable."""
        ...


class Forgetful:
    """A Keeper that keeps nothing."""

    def __init__(self) -> None:
        self.log = Log()

    def reached(self, resumes: bool) -> int:
        del resumes
        return 0

    def restore(self, state: State) -> None: ...

    def after_step(self, state: State, evaluated: bool) -> None: ...

    def table(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return unkept(name, make)


def train(
    adapter: Adapter,
    examples: Sequence[Example],
    objective: Objective,
    plan: Train,
    seed: int,
    accelerator: Accelerator,
    evaluate: Evaluate,
    progress: Progress = lambda step, loss: None,
    probe: Evaluate = lambda step: None,
    keeper: Keeper | None = None,
    workers: int = 0,
    phases: Phases = unmeasured,
    then: Sequence[Stage] = (),
) -> list[dict[str, Any]]:
    """Fine-tunes in place and returns the curve: one row per logged step.

    `evaluate(step)` is called at the steps of `plan.evaluations`, `probe(step)` at those of `plan.probes`, 0 among
    them; neither counts as time of training, nor changes what the global random generators give next. With several
    processes, each trains on its share of every batch. Where `keeper` has the state of an earlier process, training
    goes on from there, beginning with what is due at that step. workers: threads that read the coming images; they
    change nothing but the time it takes. then: further stages, whose steps go on counting where those before ended.
    """
    keeper = keeper or Forgetful()
    work = Work(adapter, examples, seed, accelerator, workers, phases, keeper.table)
    kind = _kind_of_engine(accelerator)
    _checkpoint(adapter, plan)
    if then and adapter.codec.noise_objects:
        raise ConfigError("noise_objects: expected 0 where a stage follows, which knows no noise")
    reached = keeper.reached(kind.resumes)
    state: State | None = None
    start = 0
    for stage in (FineTuning(objective, plan), *then):
        end = start + stage.plan.steps
        if reached <= end:
            engine = kind(adapter.model, accelerator, stage.plan.precision)
            engine.prepare(partial(optimizer_of, plan=stage.plan))
            fresh = state is None
            state = _entered(stage, work, engine, state)
            loop = _Loop(work, stage, engine, state, start)
            if fresh:
                keeper.restore(state)
                loop.look(evaluate, probe)
            loop.run(evaluate, progress, probe, keeper)
            engine.finish()
        start = end
    return keeper.log.of("train")


def _entered(stage: Stage, work: Work, engine: DataParallel, before: State | None) -> State:
    """The state that a stage begins with: that of the stage before, if it was trained by this process, but for what is
    each stage's own."""
    reference, selections = stage.reference, stage.objective.selections
    if reference is not None:
        reference.model.eval().load_state_dict(work.adapter.model.state_dict())
    own = State(work.adapter.model, engine.optimizer, selections, resumes=engine.resumes)
    own.reference = None if reference is None else reference.model
    if before is not None:
        own.step, own.seconds, own.waiting, own.last = before.step, before.seconds, before.waiting, before.last
    return own


class _Loop:
    """One stage, step by step."""

    def __init__(self, work: Work, stage: Stage, engine: DataParallel, state: State, start: int) -> None:
        self._work, self._stage, self._engine, self._state, self._start = work, stage, engine, state, start
        self._plan, self._objective = stage.plan, stage.objective
        self._evaluations = [start + step for step in self._plan.evaluations]
        self._probes = [start + step for step in self._plan.probes]

    def look(self, evaluate: Evaluate, probe: Evaluate) -> None:
        """What is due at this step."""
        with random_numbers_kept(self._state.device):
            for due, ask in ((self._probes, probe), (self._evaluations, evaluate)):
                if self._state.step in due:
                    with self._engine.whole():
                        ask(self._state.step)
        self._work.adapter.model.train()

    def run(self, evaluate: Evaluate, progress: Progress, probe: Evaluate, keeper: Keeper) -> None:
        """From the step after the state's to the stage's last."""
        plan, state, phases = self._plan, self._state, self._work.phases
        with self._stage.feed(self._work, state, self._engine, self._start) as feed:
            for step in range(state.step + 1, self._start + plan.steps + 1):
                started = time.perf_counter()
                todo, own = feed(step), step - self._start
                warm_up(self._engine.optimizer, min(1.0, own / max(1, plan.warm_up)))
                logged = own == 1 or own % plan.log_every == 0 or own == plan.steps
                figures = self._update(step, todo, logged)
                assert state.last is not None
                progress(step, state.last["loss"])
                state.seconds += time.perf_counter() - started
                if logged:
                    times = {"seconds": state.seconds, "waiting": state.waiting}
                    keeper.log.add("train", {**state.last, **figures, **todo.figures, **times})
                with phases("snapshot"):
                    keeper.after_step(state, evaluated=step in self._evaluations)
                self.look(evaluate, probe)

    def _update(self, step: int, todo: Todo, logged: bool) -> dict[str, float | None]:
        """The optimizer steps of a step; returns the objective's figures, over all of them. The logged norm is the
        largest. Loss and norm are 0 where there was nothing to train on."""
        work, engine, state = self._work, self._engine, self._state
        last: dict[str, float] = {"step": step, "loss": 0.0, "grad_norm": 0.0}
        total = None
        for rows in todo.updates:
            size = self._plan.micro_batch or len(rows)
            settings = self._objective, size, work.accelerator, logged, todo.pixels, work.phases, engine
            output = accumulate(work.adapter, rows, *settings)
            with work.phases("optimizer"):
                norm = engine.clip(self._plan.clip)
            now = {"step": step, "loss": float(output.mean()), "grad_norm": norm}
            require_finite(now, state.last, [row.example.image_id for row in rows if not row.sampled])
            with work.phases("optimizer"):
                engine.step()
            total = added(total, output)
            last = {**now, "loss": float(total.mean()), "grad_norm": max(norm, last["grad_norm"])}
        state.step, state.last = step, last
        return {} if total is None else means(total)


def _checkpoint(adapter: Adapter, plan: Train) -> None:
    """ConfigError if the plan asks for what the adapter does not offer."""
    if plan.gradient_checkpointing:
        if not isinstance(adapter, Checkpointed):
            raise ConfigError(f"train.gradient_checkpointing: {type(adapter).__name__} has no checkpoint_gradients()")
        adapter.checkpoint_gradients()


def _kind_of_engine(accelerator: Accelerator) -> type[DataParallel]:
    """ConfigError if accelerate is configured for what there is not."""
    if not wants_sharding(accelerator):
        return DataParallel
    from harness.training.engines import sharding  # only then: it takes two seconds

    return sharding.kind(accelerator)
