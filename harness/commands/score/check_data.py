"""Runs `detmodes check-data NAME`: tells whether the data folder is complete and holds what was published, or what a
benchmark over files of one's own reads.

Every check is made and reported, not only the first that fails: files, counts, pictures, a sample of pictures that
must decode and have the size their record says, boxes inside their images, suspicious annotations, and equal
categories in train and val.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from benchmarks import published as data_sets
from benchmarks.on_disk import OnDisk
from benchmarks.published import LAYOUTS, File, Layout
from benchmarks.readers.annotations import Annotations, check_images
from benchmarks.suspicions import find_in_annotations
from harness import images as images_
from harness import registry
from harness.errors import ConfigError, DataError, unknown
from harness.system.terminal import screen
from harness.types import Example

NO_SETTINGS: Mapping[str, Any] = {}
ALIASES = {"coco": "coco-val2017"}
TOLERANCE = 1.0
"""Pixels by which a box may exceed its image: polygons drawn on the border, and rounding."""
SEED = 0
"""Seed of the sample of pictures, so that it is always the same."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. `expected` is empty where any value will do; `detail` is shown below the table."""

    part: str
    name: str
    value: str
    expected: str = ""
    passed: bool = True
    detail: str = ""


def command(name: str, data: Path | None, images: int, settings: Mapping[str, Any] | None = None) -> int:
    """Prints the table of all checks. Returns the exit code: 0 if all passed, 1 if one failed."""
    results = list(checks(name, data, images, settings or {}))
    console = screen()
    console.print(_table(name, results))
    for check in results:
        if check.detail:
            console.print(escape(f"{check.part}: {check.detail}"), soft_wrap=True, highlight=False)
    return 0 if all(check.passed for check in results) else 1


def checks(
    name: str, data: Path | None, images: int = 50, settings: Mapping[str, Any] = NO_SETTINGS
) -> Iterator[Check]:
    """Yields the checks of the layout `name`, or of the files that a benchmark of this name reads with these settings,
    in order, on a sample of `images` pictures of each split.

    Raises ConfigError for an unknown name or no folder, DataError for a folder that does not exist.
    """
    layout = LAYOUTS.get(ALIASES.get(name, name))
    if layout is not None and not settings:
        return _of_layout(layout, data, images)
    return _of_benchmark(_on_disk(name), settings, data, images)


def _on_disk(name: str) -> type[OnDisk]:
    """Finds the benchmark of a name, which must be one over files."""
    names = registry.names("benchmark")
    if name not in names:
        raise ConfigError(unknown("data set", name, [*LAYOUTS, *ALIASES, *names]))
    made_by = registry.find("benchmark", name)
    if not (isinstance(made_by, type) and issubclass(made_by, OnDisk)):
        raise ConfigError(f"check-data {name}: expected a benchmark over files; run: detmodes check benchmark {name}")
    return made_by


def _of_benchmark(
    made_by: type[OnDisk], settings: Mapping[str, Any], data: Path | None, images: int
) -> Iterator[Check]:
    """Yields the checks of what a benchmark over files reads."""
    if problems := made_by.problems(settings):
        raise ConfigError(*problems)
    try:
        loaded = made_by.read(settings, data)
    except DataError as error:
        yield Check("both", "file", "missing or invalid", "valid files", passed=False, detail=str(error))
        return
    for part, split in (("train", loaded.train), ("val", loaded.val)):
        yield Check(part, "file", f"{split.path.name}, SHA-256 {split.digest[:12]}")
        yield from _of_split(part, File(split.path.name), split, check_images, images)
    yield _same_categories(loaded.train, loaded.val)


def _of_split(
    part: str, file: File, annotations: Annotations, require_pictures: Callable[[Annotations], None], images: int
) -> Iterator[Check]:
    yield from _counts(part, file, annotations)
    yield from _pictures(part, require_pictures, annotations, images)
    yield _boxes(part, annotations)
    yield from _suspicions(part, annotations)


def _of_layout(chosen: Layout, data: Path | None, images: int) -> Iterator[Check]:
    """Yields the checks of a published data set."""
    folder = data_sets.folder(data, data_sets.describe(chosen))
    read: list[Annotations] = []
    readers: tuple[tuple[str, File, Callable[[Layout, Path], Annotations]], ...] = (
        ("train", chosen.train, data_sets.read_train),
        ("val", chosen.val, data_sets.read_val),
    )
    for part, file, reader in readers:
        try:
            annotations = reader(chosen, folder)
        except DataError as error:
            yield Check(part, "file", "missing or invalid", "a valid file", passed=False, detail=str(error))
            continue
        read.append(annotations)
        yield Check(part, "file", f"{annotations.path.name}, SHA-256 {annotations.digest[:12]}")
        yield from _of_split(part, file, annotations, partial(data_sets.check_pictures, chosen), images)
    if len(read) == 2:
        yield _same_categories(*read)


def _counts(part: str, file: File, annotations: Annotations) -> Iterator[Check]:
    instances = sum(len(example.instances) for example in annotations.examples)
    crowds = sum(map(len, annotations.crowds.values()))
    for name, number, published in (
        ("images", len(annotations.examples), file.images),
        ("annotations", instances + crowds, file.annotations),
        ("categories", len(annotations.categories), file.categories),
    ):
        passed = number > 0 if published is None else number == published
        yield Check(part, name, f"{number:,}", "at least 1" if published is None else f"{published:,}", passed)


def _pictures(
    part: str, require_pictures: Callable[[Annotations], None], annotations: Annotations, images: int
) -> Iterator[Check]:
    try:
        require_pictures(annotations)
    except DataError as error:
        yield Check(part, "pictures", "some missing", "all present", passed=False, detail=str(error))
    else:
        yield Check(part, "pictures", f"{len(annotations.examples):,} present")
    present = [example for example in annotations.examples if example.path.is_file()]
    sample = random.Random(SEED).sample(present, min(images, len(present)))
    problems = [problem for example in sample if (problem := images_.problem(example))]
    outcome, expected = (
        f"{len(sample) - len(problems)} of {len(sample)} good",
        "decode, and have the size of their record",
    )
    yield Check(part, "picture sample", outcome, expected, not problems, "".join(problems[:1]))


def _boxes(part: str, annotations: Annotations) -> Check:
    outside = [
        (instance.id, example.image_id)
        for example in annotations.examples
        for instance in example.instances
        if not _inside(instance.box.corners, example)
    ]
    first = "{}: box outside: annotation {} of image {}".format(annotations.path, *outside[0]) if outside else ""
    expected = f"none, by more than {TOLERANCE:.0f} pixel"
    return Check(part, "boxes", f"{len(outside):,} outside their image", expected, not outside, first)


def _suspicions(part: str, annotations: Annotations) -> Iterator[Check]:
    """Yields annotations that are most likely mistakes, with counts. Those that published files also have are
    reported and pass."""
    for suspicion in find_in_annotations(annotations):
        detail = f"{annotations.path}: {suspicion}"
        yield Check(part, "suspicion", f"{suspicion.count:,} {suspicion.what}", "none", suspicion.harmless, detail)


def _inside(corners: tuple[float, float, float, float], example: Example) -> bool:
    x0, y0, x1, y1 = corners
    return min(x0, y0) >= -TOLERANCE and x1 <= example.width + TOLERANCE and y1 <= example.height + TOLERANCE


def _same_categories(train: Annotations, val: Annotations) -> Check:
    differing = len(set(train.categories) ^ set(val.categories))
    return Check("both", "categories", f"{differing} differ", "the same in train and val", not differing)


def _table(name: str, results: list[Check]) -> Table:
    table = Table(title=f"check-data {escape(name)}")
    for heading in ("split", "check", "", "found", "expected"):
        table.add_column(heading, overflow="fold")
    for check in results:
        verdict = "[green]ok[/green]" if check.passed else "[red]FAILED[/red]"
        table.add_row(check.part, check.name, verdict, escape(check.value), escape(check.expected))
    return table
