"""One linear fine-tuning loop, and what has to happen before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice, tee
from typing import Any, Protocol

import numpy as np
from accelerate import Accelerator
from torch import Tensor

from harness import objectives
from harness.batches import Draw, draws
from harness.engine import DataParallel, wants_sharding
from harness.errors import ConfigError, ObjectiveError
from harness.faults import require_finite
from harness.loading import Loader, Pixels, loading
from harness.log import Log
from harness.optimizer import optimizer_of, warm_up
from harness.phases import Phases, unmeasured
from harness.protocols import Adapter, Checkpointed
from harness.snapshots import State, random_numbers_kept
from harness.step import Objective, Row, accumulate, means, with_samples
from harness.suite import Train
from harness.targets import members, target
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

    def restore(self, state: State) -> None:
        """Puts the state of an earlier process in place, its log included; does nothing if there is none."""
        ...

    def after_step(self, state: State, evaluated: bool) -> None:
        """May save the state, and may stop training. evaluated: the model is going to be evaluated as it is now."""
        ...


class Forgetful:
    """A Keeper that keeps nothing."""

    def __init__(self) -> None:
        self.log = Log()

    def restore(self, state: State) -> None: ...

    def after_step(self, state: State, evaluated: bool) -> None: ...


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
) -> list[dict[str, Any]]:
    """Fine-tunes in place and returns the curve: one row per logged step.

    `evaluate(step)` is called at the steps of `plan.evaluations`, `probe(step)` at those of `plan.probes`, 0 among
    them; neither counts as time of training, nor changes what the global random generators give next. With several
    processes, each trains on its share of every batch. Where `keeper` has the state of an earlier process, training
    goes on from there, beginning with what is due at that step. workers: threads that read the coming images; they
    change nothing but the time it takes.
    """
    engine = _engine(adapter, plan, accelerator)
    sampled_tokens = _sampled_tokens(adapter, examples) if "samples" in objective.needs else 0
    keeper = keeper or Forgetful()
    state = State(adapter.model, engine.optimizer, objective.selections, resumes=engine.resumes)

    def look() -> None:
        with random_numbers_kept(state.device):
            for due, ask in ((plan.probes, probe), (plan.evaluations, evaluate)):
                if state.step in due:
                    with engine.whole():
                        ask(state.step)
        adapter.model.train()

    keeper.restore(state)
    look()
    steps, coming = tee(islice(batches(len(examples), plan, seed), state.step, None))
    pictures = (examples[draw.image] for drawn in coming for draw in _share(drawn, plan, accelerator))
    with loading(adapter.pixels, pictures, workers, _ahead(plan, accelerator)) as loader:
        pixels = _awaited(loader, state, phases)
        for step, drawn in enumerate(steps, state.step + 1):
            started = time.perf_counter()
            with _waiting(state, phases):
                rows = rows_of(adapter, examples, _share(drawn, plan, accelerator), plan.targets, seed)
            if "samples" in objective.needs:
                own_seed = _sampling_seed(seed, step)
                with phases("sampling"), engine.whole():
                    rows = with_samples(adapter, rows, objective.settings["samples"], sampled_tokens, own_seed)
            warm_up(engine.optimizer, min(1.0, step / max(1, plan.warm_up)))
            logged = step == 1 or step % plan.log_every == 0 or step == plan.steps
            size = plan.micro_batch or len(rows)
            output = accumulate(adapter, rows, objective, size, accelerator, logged, pixels, phases, engine)
            loss = float(output.mean())
            with phases("optimizer"):
                norm = engine.clip(plan.clip)
            own = {"step": step, "loss": loss, "grad_norm": norm}
            require_finite(own, state.last, [row.example.image_id for row in rows if not row.sampled])
            with phases("optimizer"):
                engine.step()
            progress(step, loss)
            state.step, state.last = step, own
            state.seconds += time.perf_counter() - started
            if logged:
                keeper.log.add("train", {**own, **means(output), "seconds": state.seconds, "waiting": state.waiting})
            with phases("snapshot"):
                keeper.after_step(state, evaluated=step in plan.evaluations)
            look()
    engine.finish()
    return keeper.log.of("train")


def _engine(adapter: Adapter, plan: Train, accelerator: Accelerator) -> DataParallel:
    """Ready for the first step. ConfigError if it cannot be had with this plan."""
    if plan.gradient_checkpointing:
        if not isinstance(adapter, Checkpointed):
            raise ConfigError(f"train.gradient_checkpointing: {type(adapter).__name__} has no checkpoint_gradients()")
        adapter.checkpoint_gradients()
    kind = DataParallel
    if wants_sharding(accelerator):
        from harness import sharding  # only then: it takes two seconds

        kind = sharding.kind(accelerator)
    engine = kind(adapter.model, accelerator, plan.precision)
    engine.prepare(partial(optimizer_of, plan=plan))
    return engine


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
        (epoch, image): members(examples[image], adapter.codec, targets, seed, epoch, count)
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


def _sampled_tokens(adapter: Adapter, examples: Sequence[Example]) -> int:
    """Where a sequence that the model samples is cut off: at twice the longest target."""
    return 2 * max(len(target(example, adapter.codec, "canonical")) for example in examples)


def _sampling_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
