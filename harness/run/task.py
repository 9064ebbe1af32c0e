"""Adapts benchmark and model to a suite before anything starts: its task, `images: skip`, `val_ids`, and the images
of early evaluations.

`caption` has no boxes: the box of an instance and of a mention is the whole image. Code that matches, counts and
compares boxes then compares categories only, each at most as often as it occurs.

`images: skip`: pictures that are missing or cannot be read are left out. (`images: fail`, the default, costs nothing: a
picture that is missing is named before anything starts, and one that cannot be read when a cell comes to it.)
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import images, objectives
from harness.errors import ConfigError, DataError
from harness.metrics.detection.accumulate import Matches
from harness.protocols import Adapter, Benchmark, LeavesOut, Predictor, ReadsPrompts
from harness.sequence import CaptionCodec, Ids, Task, for_task
from harness.sequence.experts import expert_tokens
from harness.sequence.targets import in_reading_order
from harness.suite.train_settings import early_places
from harness.system.provenance.pictures import judge_pictures
from harness.types import Box, Detection, Evaluation, Example, Instance

SPLITS = ("train", "val", "calibration")
LeftOut = dict[str, dict[str, int]]
"""By split, how many images were left out, by why."""


def of_benchmark(benchmark: Benchmark, task: Task) -> Benchmark:
    """Returns the benchmark under the task; the same one for `boxes`."""
    return benchmark if task == "boxes" else Captioned(benchmark, task)


def experts_of(made: Predictor, objective: str, settings: Mapping[str, Any]) -> Ids:
    """Returns the tokens of the experts of a model that is trained with this objective; none unless it is a mixture.

    ConfigError where they are more than the model has location tokens, or where it reads a prompt once for all answers
    about an image.
    """
    needed = objectives.ready(objective, settings)
    if "experts" not in needed.needs:
        return ()
    if isinstance(made, ReadsPrompts):
        kind = type(made).__name__
        raise ConfigError(f"mixture: {kind} reads one prompt for all answers about an image; use another model")
    return expert_tokens(made.codec.tokens.locations, needed.settings["experts"])


def of_model(made: Predictor, benchmark: Benchmark, task: Task) -> None:
    """Prepares a model for the task. ConfigError where it cannot do it: its vocabulary cannot write captions, or not
    the benchmark's captions."""
    made.codec = for_task(made.codec, task)
    if not isinstance(made.codec, CaptionCodec) or made.codec.writes_text or not isinstance(made, Adapter):
        return
    if any(example.captions for example in benchmark.split("train")):
        raise ConfigError(
            f"task: {task}: the captions of {benchmark.name} are text, this model's vocabulary has names alone; "
            "use a model with a tokenizer, or leave out the benchmark's captions"
        )


class Captioned:
    """A Benchmark under one of the tasks with captions; official figures exist where there are boxes."""

    def __init__(self, benchmark: Benchmark, task: Task) -> None:
        self.name, self.categories = benchmark.name, benchmark.categories
        self.renders_pictures = getattr(benchmark, "renders_pictures", False)
        self._whole, self._task = benchmark, task

    def split(self, name: str) -> tuple[Example, ...]:
        return self._splits[name]

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        if self._boxed:
            return self._whole.evaluate(split, detections, engine)
        return Evaluation({}, {}, "none", "")

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        return self._whole.match(split, detections)

    def describe(self) -> dict[str, object]:
        return {**self._whole.describe(), "task": self._task}

    def without(self, image_ids: Mapping[str, Collection[int]]) -> Benchmark:
        return Captioned(_leaving_out(self._whole, image_ids), self._task)

    @property
    def _boxed(self) -> bool:
        return self._task != "caption"

    @cached_property
    def _splits(self) -> dict[str, tuple[Example, ...]]:
        splits = {name: self._whole.split(name) for name in SPLITS}
        if self._boxed:
            return splits
        return {name: tuple(map(without_boxes, examples)) for name, examples in splits.items()}


def without_boxes(example: Example) -> Example:
    """Returns the example with instances that fill the image, in reading order."""
    whole = Box(0, 0, example.width, example.height)
    instances = (Instance(item.id, item.category_id, whole) for item in in_reading_order(example.instances))
    return replace(example, instances=tuple(instances))


class Chosen:
    """A Benchmark whose validation split consists of the images that a suite names."""

    def __init__(self, whole: Benchmark, image_ids: Collection[int]) -> None:
        self.name, self.categories = whole.name, whole.categories
        self._described = {**whole.describe(), "val_ids": digest_of_ids(image_ids)}
        self._chosen = only(whole, image_ids)

    def split(self, name: str) -> tuple[Example, ...]:
        return self._chosen.split(name)

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        return self._chosen.evaluate(split, detections, engine)

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        return self._chosen.match(split, detections)

    def describe(self) -> dict[str, object]:
        """Describes the benchmark with a digest of the ids: LVIS has thousands, and every record would repeat them."""
        return self._described

    def without(self, image_ids: Mapping[str, Collection[int]]) -> Benchmark:
        rest = copy.copy(self)
        rest._chosen = _leaving_out(self._chosen, image_ids)
        return rest


def digest_of_ids(image_ids: Iterable[int]) -> str:
    """Computes the SHA-256 of image ids in ascending order, one a line."""
    return hashlib.sha256("\n".join(map(str, sorted(image_ids))).encode()).hexdigest()


def only(benchmark: Benchmark, image_ids: Collection[int]) -> Benchmark:
    """Leaves out all other images of the validation split. ConfigError where the benchmark cannot."""
    others = [example.image_id for example in benchmark.split("val") if example.image_id not in image_ids]
    return _leaving_out(benchmark, {"val": others}) if others else benchmark


def _leaving_out(benchmark: Benchmark, image_ids: Mapping[str, Collection[int]]) -> Benchmark:
    if not isinstance(benchmark, LeavesOut):
        raise ConfigError(f"the benchmark {benchmark.name} cannot leave images out; use none of val_ids, eval_images")
    return benchmark.without(image_ids)


def read_ids(path: Path, benchmark: Benchmark) -> frozenset[int]:
    """Reads `val_ids`: whole numbers separated by white space or commas, each the id of a validation image.

    Raises:
        ConfigError: where the file cannot be read, has no ids, or an id that the validation split does not have.
    """
    try:
        ids = frozenset(int(word) for word in path.read_text().replace(",", " ").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"val_ids: {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError:
        raise ConfigError(f"val_ids: {path}: expected image ids, whole numbers separated by white space") from None
    outside = sorted(ids - {example.image_id for example in benchmark.split("val")})
    if outside:
        several = f"{len(outside)} of {len(ids)} ids are" if len(outside) > 1 else "an id is"
        raise ConfigError(f"val_ids: {path}: {several} of no validation image, such as {outside[0]}")
    if not ids:
        raise ConfigError(f"val_ids: {path}: expected image ids, found none")
    return ids


def early(benchmark: Benchmark, number: int) -> Benchmark:
    """Returns the benchmark with `number` validation images, for early evaluations: the first of a fixed permutation,
    so that a smaller set is part of a larger one. ConfigError where there are not so many."""
    ids = [example.image_id for example in benchmark.split("val")]
    if number > len(ids):
        raise ConfigError(f"train.eval_images: expected at most the {len(ids)} validation images, got {number}")
    return only(benchmark, {ids[place] for place in early_places(len(ids), number)})


def without_unreadable(
    benchmark: Benchmark, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Benchmark, LeftOut]:
    """Leaves out the images that `images.problem` finds something wrong with; nothing changes where there are none.

    Decodes every picture of every split once, in threads, and keeps what it found by the digest of the picture; so a
    second time takes as long as asking for sizes and times of files. `progress(done, total)` after each.

    Returns:
        The benchmark, and by split how many images were "missing" and how many "unreadable".

    Raises:
        ConfigError: where the benchmark cannot leave images out.
        DataError: where nothing would be left of a split.
    """
    if not isinstance(benchmark, LeavesOut):
        raise ConfigError(f"images: skip: the benchmark {benchmark.name} cannot leave images out; use images: fail")
    examples = [(split, example) for split in SPLITS for example in benchmark.split(split)]
    files = [(e.path, f"{e.width} x {e.height}, {images.READER}") for _, e in examples]
    problems = judge_pictures(files, lambda place: images.problem(examples[place][1]), progress)
    unreadable: dict[str, list[int]] = {}
    left_out: dict[str, Counter[str]] = {}
    for (split, example), problem in zip(examples, problems, strict=True):
        if problem:
            unreadable.setdefault(split, []).append(example.image_id)
            why = "unreadable" if example.path.exists() else "missing"
            left_out.setdefault(split, Counter())[why] += 1
    if not unreadable:
        return benchmark, {}
    try:
        rest = benchmark.without(unreadable)
    except DataError as error:
        first = next(filter(None, problems))
        raise DataError(f"{error}; the first that was left out: {first}") from None
    return rest, {split: dict(counts) for split, counts in left_out.items()}
