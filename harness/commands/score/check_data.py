"""Runs `detmodes check-data NAME`: tells whether the data folder is complete and holds what was published.

Every check is made and reported, not only the first that fails: files, counts, pictures, a sample of pictures that
must decode and have the size their record says, boxes inside their images, suspicious annotations, and equal
categories in train and val.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from benchmarks import published as data_sets
from benchmarks.published import LAYOUTS, File, Layout
from benchmarks.readers.annotations import Annotations
from benchmarks.suspicions import find_in_annotations
from harness import images as images_
from harness.errors import ConfigError, DataError, unknown
from harness.system.terminal import screen
from harness.types import Example

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


def command(name: str, data: Path | None, images: int) -> int:
    """Prints the table of all checks. Returns the exit code: 0 if all passed, 1 if one failed."""
    results = list(checks(name, data, images))
    console = screen()
    console.print(_table(name, results))
    for check in results:
        if check.detail:
            console.print(escape(f"{check.part}: {check.detail}"), soft_wrap=True, highlight=False)
    return 0 if all(check.passed for check in results) else 1


def checks(name: str, data: Path | None, images: int = 50) -> Iterator[Check]:
    """Yields the checks of the layout `name`, in order, on a sample of `images` pictures of each split.

    Raises ConfigError for an unknown name or no folder, DataError for a folder that does not exist.
    """
    split = ALIASES.get(name, name)
    if split not in LAYOUTS:
        raise ConfigError(unknown("data set", name, [*LAYOUTS, *ALIASES]))
    chosen = LAYOUTS[split]
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
        yield from _counts(part, file, annotations)
        yield from _pictures(part, chosen, annotations, images)
        yield _boxes(part, annotations)
        yield from _suspicions(part, annotations)
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


def _pictures(part: str, chosen: Layout, annotations: Annotations, images: int) -> Iterator[Check]:
    try:
        data_sets.check_pictures(chosen, annotations)
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
