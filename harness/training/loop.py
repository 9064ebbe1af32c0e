"""Runs one linear training loop over the stages of a cell.

In:  the model and data (Work), the stages one after the other, callbacks (Hooks), and the Checkpointer.
Out: the adapter's model is trained, in place; the curve, one row of figures per logged step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from accelerate import Accelerator

from harness.errors import ConfigError
from harness.protocols import Checkpointed
from harness.system.failures import require_finite
from harness.system.profiler import phase
from harness.training import average
from harness.training.checkpoints import TrainingState, random_numbers_kept
from harness.training.engines.data_parallel import DataParallel, require_whole_weights, wants_sharding
from harness.training.engines.optimizer import optimizer_of, scale_rates
from harness.training.schedule import rate_share
from harness.training.stage import Stage, Step, Work, micro_batch_of
from harness.training.step import accumulate, added, means


def _no_look(step: int) -> None:
    del step


def _no_progress(step: int, loss: float) -> None:
    del step, loss


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks of training, which get the step.

    evaluate, probe: called at the steps of `plan.evaluations` and `plan.probes`, which include 0; they do not count
    as training time, and leave the global random generators unchanged. progress: called after each step, with its
    loss.
    """

    evaluate: Callable[[int], None] = _no_look
    probe: Callable[[int], None] = _no_look
    progress: Callable[[int, float], None] = _no_progress


class Checkpointer(Protocol):
    """Saves the state of training, and restores it in a later process (see harness.run.resume)."""

    def reached(self, resumes: bool) -> int:
        """Returns the step of the newest checkpoint, 0 if there is none. resumes: see TrainingState."""
        ...

    def restore(self, state: TrainingState) -> None:
        """Restores the state of that checkpoint, including the log; does nothing if there is none."""
        ...

    def after_step(self, state: TrainingState, evaluated: bool) -> None:
        """May save the state, and may stop training. evaluated: whether the model is evaluated next."""
        ...


class NoCheckpoints:
    """A Checkpointer that saves nothing."""

    def reached(self, resumes: bool) -> int:
        """Returns 0: there is never a checkpoint."""
        del resumes
        return 0

    def restore(self, state: TrainingState) -> None:
        """Does nothing."""

    def after_step(self, state: TrainingState, evaluated: bool) -> None:
        """Saves nothing."""


def train(
    work: Work, stages: Sequence[Stage], hooks: Hooks | None = None, checkpointer: Checkpointer | None = None
) -> list[dict[str, Any]]:
    """Trains the adapter's model in place, stage by stage, and returns the curve: one row per logged step.

    Steps are counted across stages; each stage has a new optimizer. With several processes, each trains on its share
    of every batch. Where the checkpointer has the state of an earlier process, training resumes from there, beginning
    with what is due at that step. Raises ConfigError where the adapter, or accelerate's configuration, does not
    support a stage.
    """
    hooks, checkpointer = hooks or Hooks(), checkpointer or NoCheckpoints()
    engine_class = _engine_class(work.accelerator)
    _require_possible(work, stages)
    reached = checkpointer.reached(engine_class.resumes)
    state: TrainingState | None = None
    end = 0
    for stage in stages:
        start, end = end, end + stage.plan.steps
        if reached > end:
            continue
        engine = engine_class(work.adapter.model, work.accelerator, stage.plan.precision)
        engine.prepare(partial(optimizer_of, plan=stage.plan))
        begins = state is None
        state = _state_at_start(stage, work, engine, state)
        running = _RunningStage(work, stage, engine, state, start, hooks)
        if begins:
            checkpointer.restore(state)
            running.look()
        running.train(checkpointer)
        engine.finish()
        average.put_in_place(state.average, state.model)
    return work.log.of("train")


def _require_possible(work: Work, stages: Sequence[Stage]) -> None:
    """Raises ConfigError where the adapter does not support what the stages need."""
    adapter = work.adapter
    for stage in stages:
        require_whole_weights(stage.plan.ema, work.accelerator)
    if any(stage.plan.gradient_checkpointing for stage in stages):
        if not isinstance(adapter, Checkpointed):
            raise ConfigError(f"train.gradient_checkpointing: {type(adapter).__name__} has no checkpoint_gradients()")
        adapter.checkpoint_gradients()
    if len(stages) > 1 and adapter.codec.noise_objects:
        raise ConfigError("noise_objects: expected 0 where a stage follows, which knows no noise")


def _engine_class(accelerator: Accelerator) -> type[DataParallel]:
    """Returns the class of the engine. ConfigError if accelerate's configuration is not supported."""
    if not wants_sharding(accelerator):
        return DataParallel
    from harness.training.engines import sharding  # only then: it takes two seconds

    return sharding.kind(accelerator)


def _state_at_start(stage: Stage, work: Work, engine: DataParallel, before: TrainingState | None) -> TrainingState:
    """Returns the state at the start of a stage: that of the previous stage, if this process has trained it, with the
    fields of each stage reset."""
    reference, selections = stage.reference, stage.objective.selections
    if reference is not None:
        reference.model.eval().load_state_dict(work.adapter.model.state_dict())
    state = TrainingState(work.adapter.model, engine.optimizer, selections, resumes=engine.resumes)
    state.reference = None if reference is None else reference.model
    if stage.plan.ema is not None:
        state.average = average.begin(state.model)
    if before is not None:
        state.step, state.seconds, state.waiting, state.last = before.step, before.seconds, before.waiting, before.last
    return state


class _RunningStage:
    """Runs one stage, step by step."""

    def __init__(
        self, work: Work, stage: Stage, engine: DataParallel, state: TrainingState, start: int, hooks: Hooks
    ) -> None:
        self._work, self._stage, self._engine, self._state, self._start = work, stage, engine, state, start
        self._plan, self._objective, self._hooks = stage.plan, stage.objective, hooks
        self._evaluations = [start + step for step in self._plan.evaluations]
        self._probes = [start + step for step in self._plan.probes]

    def look(self) -> None:
        """Probes and evaluates the model, if that is due at the state's step."""
        state = self._state
        with random_numbers_kept(state.device):
            for due, hook in ((self._probes, self._hooks.probe), (self._evaluations, self._hooks.evaluate)):
                if state.step in due:
                    with self._engine.whole(), average.shown(state.average, state.model):
                        hook(state.step)
        self._work.adapter.model.train()

    def train(self, checkpointer: Checkpointer) -> None:
        """Trains from the step after the state's to the stage's last."""
        state = self._state
        numbers = range(state.step + 1, self._start + self._plan.steps + 1)
        with closing(self._stage.steps(self._work, state, self._engine, self._start)) as steps:
            for number in numbers:
                self._train_step(number, steps)
                with phase("checkpoint"):
                    checkpointer.after_step(state, evaluated=number in self._evaluations)
                self.look()

    def _train_step(self, number: int, steps: Iterator[Step]) -> None:
        """Makes one step, and logs it where that is due."""
        plan, state, stage_step = self._plan, self._state, number - self._start
        started = time.perf_counter()
        step = next(steps)
        scale_rates(self._engine.optimizer, rate_share(stage_step, plan.steps, plan.warm_up, plan.schedule))
        logged = stage_step == 1 or stage_step % plan.log_every == 0 or stage_step == plan.steps
        figures = self._update(number, step, logged)
        if plan.ema is not None:
            average.update(state.average, state.model, plan.ema, stage_step)
        state.seconds += time.perf_counter() - started
        assert state.last is not None
        self._hooks.progress(number, state.last["loss"])
        if logged:
            times = {"seconds": state.seconds, "waiting": state.waiting}
            self._work.log.add("train", {**state.last, **figures, **step.figures, **times})

    def _update(self, number: int, step: Step, logged: bool) -> dict[str, float | None]:
        """Makes the optimizer updates of a step; returns the objective's figures over all of them. The logged norm is
        the largest. Loss and norm are 0 where there was nothing to train on."""
        work, engine, state = self._work, self._engine, self._state
        last: dict[str, float] = {"step": number, "loss": 0.0, "grad_norm": 0.0}
        total = None
        for rows in step.updates:
            output = accumulate(
                work.adapter,
                rows,
                self._objective,
                micro_batch_of(self._plan, len(rows)),
                work.accelerator,
                logged=logged,
                pixels=step.pixels,
                engine=engine,
            )
            with phase("optimizer"):
                norm = engine.clip(self._plan.clip)
            now = {"step": number, "loss": float(output.mean()), "grad_norm": norm}
            require_finite(now, state.last, [row.example.image_id for row in rows if not row.sampled])
            with phase("optimizer"):
                engine.step()
            total = added(total, output)
            last = {**now, "loss": float(total.mean()), "grad_norm": max(norm, last["grad_norm"])}
        state.step, state.last = number, last
        return {} if total is None else means(total)
