"""One linear fine-tuning loop, and what has to happen before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, tee
from typing import Any, Protocol

import pandas as pd
from accelerate import Accelerator
from torch import Tensor

from harness import objectives
from harness.augmentation import with_noise
from harness.batches import Draw, draws
from harness.engine import DataParallel, wants_sharding
from harness.errors import ConfigError, ObjectiveError
from harness.faults import require_finite
from harness.feed import Feed, Stage, Todo, Work, sampled_tokens, sampling_seed, stage_seed, unkept
from harness.loading import Loader, Pixels, loading
from harness.log import Log
from harness.optimizer import optimizer_of, warm_up
from harness.phases import Phases, unmeasured
from harness.protocols import Adapter, Checkpointed
from harness.snapshots import State, random_numbers_kept
from harness.step import Objective, Row, accumulate, added, means, with_samples
from harness.suite import Train
from harness.targets import members
from harness.teacher import top_k_masses
from harness.types import Example

SUPPLIED: frozenset[objectives.Need] = frozenset({"reference", "calibration", "sets", "samples"})

Evaluate = Callable[[int], None]
Progress = Callable[[int, float], None]


def prepare(
    name: str, settings: Mapping[str, Any], base: Adapter, heldout: Sequence[Example], plan: Train, seed: int
) -> Objective:
    """Resolves a quantile on the held-out examples and keeps the base as the reference, as far as needed.

    `base` must be a copy that is not trained: it is put into eval mode here.
    """
    needs = objectives.needs(name, settings)
    if needs - SUPPLIED:
        raise ObjectiveError(f"{name} needs {sorted(needs - SUPPLIED)}, which this training loop does not supply")
    if base.codec.noise_objects and "sets" in needs:
        raise ConfigError(f"{name}: it compares whole sequences, which noise_objects extends at random; set it to 0")
    base.model.eval()
    if "calibration" in needs:
        if not heldout:
            raise ConfigError(
                f"{name}: quantile needs a calibration split, and the benchmark has none; "
                "give the benchmark calibration_images, or the objective a threshold"
            )
        masses = top_k_masses(base, heldout, plan.targets, seed, settings["top_k"])
        settings = objectives.resolve(name, settings, masses)
    full = objectives.complete(name, settings)
    reference = base if "reference" in needs else None
    return Objective(name, full, objectives.build(name, **full), reference, needs, loss_weights=plan.loss_weights)


class Keeper(Protocol):
    """What outlives a killed process (harness.resume), and the log of training."""

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
        """See harness.feed.KeepTable."""
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


@dataclass(frozen=True, slots=True)
class FineTuning:
    """An objective on target sequences: the stage that every cell begins with."""

    objective: Objective
    plan: Train
    reference: Adapter | None = None

    @contextmanager
    def feed(self, work: Work, state: State, engine: DataParallel, start: int) -> Iterator[Feed]:
        """See harness.feed.Stage."""
        plan, seed, examples, adapter = self.plan, stage_seed(work.seed, start), work.examples, work.adapter
        samples = self.objective.settings["samples"] if "samples" in self.objective.needs else 0
        longest = sampled_tokens(work) if samples else 0
        steps, coming = tee(islice(batches(len(examples), plan, seed), state.step - start, None))
        pictures = (examples[draw.image] for drawn in coming for draw in _share(drawn, plan, work.accelerator))
        with loading(adapter.pixels, pictures, work.workers, _ahead(plan, work.accelerator)) as loader:
            pixels = _awaited(loader, state, work.phases)

            def todo(step: int) -> Todo:
                with _waiting(state, work.phases):
                    rows = rows_of(adapter, examples, _share(next(steps), plan, work.accelerator), plan.targets, seed)
                if samples:
                    with work.phases("sampling"), engine.whole():
                        rows = with_samples(adapter, rows, samples, longest, sampling_seed(seed, step))
                return Todo([rows], pixels=pixels)

            yield todo


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
    from harness import sharding  # only then: it takes two seconds

    return sharding.kind(accelerator)


def batches(examples: int, plan: Train, seed: int) -> Iterator[list[Draw]]:
    """What each step of the plan trains on."""
    rate = plan.collision_rate or 0.0
    return draws(examples, plan.members, plan.batch_size, plan.steps, seed, plan.batching, rate)


def rows_of(adapter: Adapter, examples: Sequence[Example], drawn: Sequence[Draw], targets: str, seed: int) -> list[Row]:
    """The sequences of a batch."""
    needed: dict[tuple[int, int], int] = {}  # by epoch and image: the members of an image are drawn once
    for draw in drawn:
        key = draw.epoch, draw.image
        needed[key] = max(needed.get(key, 0), draw.member + 1)
    own = {
        (epoch, image): [
            with_noise(tokens, examples[image], adapter.codec, seed, epoch)
            for tokens in members(examples[image], adapter.codec, targets, seed, epoch, count)
        ]
        for (epoch, image), count in needed.items()
    }
    return [Row(examples[draw.image], own[draw.epoch, draw.image][draw.member]) for draw in drawn]


def require_shares(plan: Train, processes: int) -> None:
    """ConfigError if a batch cannot be shared evenly by so many."""
    if plan.batch_size % (processes * plan.set_size):
        expected = f"a multiple of {processes} processes x {plan.set_size} targets of a set"
        raise ConfigError(f"train.batch_size: expected {expected}, got {plan.batch_size}")


def _share(drawn: list[Draw], plan: Train, accelerator: Accelerator) -> list[Draw]:
    """What this process trains on; sets stay whole."""
    require_shares(plan, accelerator.num_processes)
    size = plan.batch_size // accelerator.num_processes
    return drawn[accelerator.process_index * size :][:size]


@contextmanager
def _waiting(state: State, phases: Phases) -> Iterator[None]:
    """The block makes the model wait for what it trains on."""
    started = time.perf_counter()
    with phases("data"):
        yield
    state.waiting += time.perf_counter() - started


def _awaited(loader: Loader, state: State, phases: Phases) -> Pixels:
    def pixels(examples: Sequence[Example]) -> Tensor:
        with _waiting(state, phases):
            return loader(examples)

    return pixels


def _ahead(plan: Train, accelerator: Accelerator) -> int:
    """Images of two micro-batches."""
    processes: int = accelerator.num_processes
    rows = min(plan.micro_batch or plan.batch_size, plan.batch_size // processes)
    return max(1, 2 * rows // plan.set_size)
