"""Runs `detmodes bottleneck`: at every point where a category's names part, how far a model is from choosing evenly
among them, and how much of that its output layer forces on it (harness.evaluation.bottleneck).

In: a finished cell or a shipped base, and the validation images that go with it. Out: a table, and the same as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import records, registry
from harness.commands.models.predict import HOME_BENCHMARK, open_model
from harness.commands.results.export import benchmark_of_cell
from harness.errors import ConfigError, DataError
from harness.evaluation.bottleneck import BranchFloor, bottleneck
from harness.report.grids.grid import Grid, GridCell, number
from harness.sequence import Codec
from harness.suite.permissions import NOTHING, Permissions
from harness.types import Example

ALL = "(all)"
"""The name of the line with the means over all branch points."""


@dataclass(frozen=True, slots=True)
class NamePoint:
    """One point where names part.

    names     those that go on from there
    after     what of them the model has said by then, as text; empty at their beginning
    passed    how often the targets pass this point
    kl        mean KL(uniform || model) over these times, in nats
    least_kl  the least that the output layer allows, in nats
    """

    category_id: int | None
    category: str
    names: tuple[str, ...]
    after: str
    passed: int
    kl: float
    least_kl: float

    @property
    def share(self) -> float:
        """Returns what share of `kl` is capacity, least_kl / kl; nan where the model chooses evenly."""
        return self.least_kl / self.kl if self.kl else math.nan


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The lines of a model in the order of categories, and their means, each point counted as often as it is passed."""

    model: str
    images: int
    lines: tuple[NamePoint, ...]

    @property
    def overall(self) -> NamePoint:
        """Returns the line of all points."""
        passed = sum(line.passed for line in self.lines)
        kl, least = (sum(line.passed * value(line) for line in self.lines) / passed for value in (_kl, _least_kl))
        return NamePoint(None, ALL, (), "", passed, kl, least)


def _kl(line: NamePoint) -> float:
    return line.kl


def _least_kl(line: NamePoint) -> float:
    return line.least_kl


def read(model: str, images: int, data: Path | None = None, permissions: Permissions = NOTHING) -> Bottleneck:
    """Computes the floors of a model on the first validation images of its benchmark.

    Args:
        model: the folder of a finished cell, or the name of a model: its shipped base. data: folder of a data set on
        disk.

    Raises:
        ConfigError: for a model without hidden states, one that is not there, a cell whose prompts name categories, and
            as `open_model`; DataError: as `open_model`, where the data are others than the cell's, and where no target
            passes a point at which names part.
    """
    adapter = open_model(model, permissions)
    examples = _examples(model, data, permissions)[:images]
    floors = bottleneck(adapter, examples)
    if not floors:
        raise DataError(f"{model}: expected objects of categories with several names in the images, there are none")
    lines = [_line(adapter.codec, floor) for floor in floors]
    lines.sort(key=lambda line: (line.category_id or 0, line.after))
    return Bottleneck(model, len(examples), tuple(lines))


def _examples(model: str, data: Path | None, permissions: Permissions) -> Sequence[Example]:
    folder = Path(model)
    if not (folder / records.RECORD).is_file():
        return registry.benchmark(HOME_BENCHMARK, {}, data).split("val")
    if records.read_record(folder).cell.prompt is not None:
        raise ConfigError(f"{folder}: its prompts name categories; expected a cell with the open prompt")
    return benchmark_of_cell(folder, data, permissions).split("val")


def _line(codec: Codec, floor: BranchFloor) -> NamePoint:
    category, before = floor.branch.category_id, floor.branch.before
    names = codec.names_of[category]
    further = tuple(name for name in names if codec.name_ids[name][: len(before)] == before != codec.name_ids[name])
    after = codec.tokens.decode_name(before) if before else ""
    return NamePoint(category, names[0], further, after, floor.passed, floor.mean, floor.floor)


# ---- text ------------------------------------------------------------------------------------------------------------


def grid_of(table: Bottleneck) -> Grid:
    """Makes the table."""
    note = (
        f"On {table.images:,} validation images. KL: of the model's next token from a uniform choice among those that "
        "go on with a name, in nats, mean over the times that a target passes the point. Least KL: what the output "
        "layer allows to a hidden state no longer than the model's. Capacity: the share of KL that it is; the rest is "
        "training."
    )
    rows = tuple(map(_row, (*table.lines, table.overall)))
    headings = ("category", "names", "after", "passed", "KL", "least KL", "capacity")
    return Grid(f"Softmax bottleneck at names: {table.model}", headings, rows, words=3, note=note)


def _row(line: NamePoint) -> tuple[GridCell, ...]:
    words = (GridCell(line.category), GridCell(", ".join(line.names)), GridCell(line.after))
    share = number(line.share) if math.isnan(line.share) else f"{line.share:.1%}"
    figures = (GridCell(number(line.kl), line.kl), GridCell(number(line.least_kl), line.least_kl))
    return (*words, GridCell(f"{line.passed:,}", line.passed), *figures, GridCell(share, line.share))


def to_json(table: Bottleneck) -> str:
    """Writes the same as one document; an undefined share is null."""

    def values(line: NamePoint) -> dict[str, object]:
        return {**asdict(line), "capacity": None if math.isnan(line.share) else line.share}

    overall = {key: value for key, value in values(table.overall).items() if key in OVERALL}
    content = {"model": table.model, "images": table.images, "points": [*map(values, table.lines)], "all": overall}
    return json.dumps(content, indent=1) + "\n"


OVERALL = ("passed", "kl", "least_kl", "capacity")
"""What the line of all points has in JSON."""
