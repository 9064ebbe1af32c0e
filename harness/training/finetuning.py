"""Defines fine-tuning on ground truth as a stage: the targets of each batch, with their images read ahead."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, tee

from accelerate import Accelerator
from torch import Tensor

from harness.errors import ConfigError
from harness.protocols import Adapter
from harness.sequence import Codec
from harness.sequence.noise_objects import with_noise
from harness.sequence.targets import fewer_objects, members, writable
from harness.suite.train_settings import MaxObjects, Train
from harness.system.profiler import phase
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.objective import Objective
from harness.training.prefetch import Loader, Pixels, loading
from harness.training.rows import Row, by_length
from harness.training.schedule import Draw, draws
from harness.training.stage import Step, Work, sampled_tokens, sampling_seed, stage_seed
from harness.training.step import with_samples
from harness.types import Example


@dataclass(frozen=True, slots=True)
class FineTuning:
    """The stage that every cell begins with: an objective on target sequences."""

    objective: Objective
    plan: Train
    reference: Adapter | None = None

    def steps(self, work: Work, state: TrainingState, engine: DataParallel, start: int) -> Generator[Step, None, None]:
        """Yields batches of targets, with samples where the objective needs them (harness.training.stage.Stage)."""
        plan, seed, adapter = self.plan, stage_seed(work.seed, start), work.adapter
        samples = self.objective.settings["samples"] if "samples" in self.objective.needs else 0
        longest = sampled_tokens(work) if samples else 0
        first = state.step + 1
        batched, coming = tee(self._targets(work, seed, state.step - start))
        pictures = (row.example for rows in coming for row in rows)
        with loading(adapter.pixels, pictures, work.workers, _ahead(plan, work.accelerator)) as loader:
            pixels = _awaited(loader, state)
            for number in range(first, start + plan.steps + 1):
                with _waiting(state):
                    rows = next(batched)
                if samples:
                    with phase("sampling"), engine.whole(), work.generating():
                        rows = with_samples(adapter, rows, samples, longest, sampling_seed(seed, number))
                yield Step([rows], pixels=pixels)

    def _targets(self, work: Work, seed: int, done: int) -> Iterator[list[Row]]:
        """Yields this process's sequences of each step after so many steps. With micro-batches by tokens, sequences
        of similar length are neighbours, unless the objective compares the sequences of an image, whose sets sorting
        must not change."""
        plan, codec = self.plan, work.adapter.codec
        for drawn in islice(batches(len(work.examples), plan, seed), done, None):
            share = _share(drawn, plan, work.accelerator)
            rows = rows_of(work.adapter, work.examples, share, plan.targets, seed, plan.max_objects)
            yield by_length(rows, codec) if plan.micro_tokens and "sets" not in self.objective.needs else rows


def batches(examples: int, plan: Train, seed: int) -> Iterator[list[Draw]]:
    """Yields the sequences of each step of the plan."""
    rate = plan.collision_rate or 0.0
    return draws(examples, plan.members, plan.batch_size, plan.steps, seed, plan.batching, rate)


def rows_of(
    adapter: Adapter,
    examples: Sequence[Example],
    drawn: Sequence[Draw],
    targets: str,
    seed: int,
    limit: MaxObjects | None = None,
) -> list[Row]:
    """Makes the sequences of a batch; `limit`: how many objects of its image each may list."""

    def shortened(image: int, epoch: int) -> Example:
        example = examples[image]
        return example if limit is None else fewer_objects(example, limit.number, limit.drop, seed, epoch)

    needed: dict[tuple[int, int], int] = {}  # by epoch and image: the members of an image are drawn once
    for draw in drawn:
        key = draw.epoch, draw.image
        needed[key] = max(needed.get(key, 0), draw.member + 1)
    sequences = {
        (epoch, image): [
            with_noise(tokens, shortened(image, epoch), adapter.codec, seed, epoch)
            for tokens in members(shortened(image, epoch), adapter.codec, targets, seed, epoch, count)
        ]
        for (epoch, image), count in needed.items()
    }
    return [Row(examples[draw.image], sequences[draw.epoch, draw.image][draw.member]) for draw in drawn]


def left_out_objects(examples: Sequence[Example], limit: MaxObjects | None) -> dict[str, int] | None:
    """Counts the images with more objects than a target lists, and the objects that an epoch leaves out of them."""
    if limit is None:
        return None
    beyond = [len(example.instances) - limit.number for example in examples]
    return {"images": sum(more > 0 for more in beyond), "objects": sum(more for more in beyond if more > 0)}


def unwritable_objects(examples: Sequence[Example], codec: Codec) -> dict[str, int] | None:
    """Counts the objects without area as the model writes boxes, which are no targets, and their images; None without
    any."""
    lost = [len(example.instances) - len(writable(example, codec).instances) for example in examples]
    return {"images": sum(map(bool, lost)), "objects": sum(lost)} if any(lost) else None


def require_shares(plan: Train, processes: int) -> None:
    """Raises ConfigError if a batch cannot be shared evenly by so many processes."""
    if plan.batch_size % (processes * plan.set_size):
        expected = f"a multiple of {processes} processes x {plan.set_size} targets of a set"
        raise ConfigError(f"train.batch_size: expected {expected}, got {plan.batch_size}")


def _share(drawn: list[Draw], plan: Train, accelerator: Accelerator) -> list[Draw]:
    """Returns this process's part of the batch; sets stay whole."""
    require_shares(plan, accelerator.num_processes)
    size = plan.batch_size // accelerator.num_processes
    return drawn[accelerator.process_index * size :][:size]


@contextmanager
def _waiting(state: TrainingState) -> Iterator[None]:
    """Counts the time of the block as waiting for data."""
    started = time.perf_counter()
    with phase("data"):
        yield
    state.waiting += time.perf_counter() - started


def _awaited(loader: Loader, state: TrainingState) -> Pixels:
    def pixels(examples: Sequence[Example]) -> Tensor:
        with _waiting(state):
            return loader(examples)

    return pixels


def _ahead(plan: Train, accelerator: Accelerator) -> int:
    """Returns how many images to read ahead: those of two micro-batches."""
    processes: int = accelerator.num_processes
    rows = min(plan.micro_batch or plan.batch_size, plan.batch_size // processes)
    return max(1, 2 * rows // plan.set_size)
