"""The expansion of a suite into cells and rows, and the cells that an output folder lists."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.errors import ConfigError, DataError, shorten
from harness.records.layout import DIGESTS, SUITE
from harness.suite.schema import NamedModel, NamedObjective, Suite
from harness.system.strict import first_problem, impossible_values
from harness.types import Role

Key = TypeVar("Key", bound=Hashable)

BASE = "base"
ORACLES = ("oracle-uniform", "oracle-collapsed")
UNTRAINED_SEED = 0
"""What the base and the oracles are sampled with. Nothing that differs between seeds is trained there, so one cell
serves all seeds, those of a later run too."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One (model, objective, seed) of a suite: the unit of work, caching and resume."""

    role: Role
    model: NamedModel
    objective: NamedObjective | None
    seed: int

    @property
    def label(self) -> str:
        """Names the row that the cell belongs to."""
        if self.role == "oracle":
            return self.model.name
        return BASE if self.objective is None else self.objective.label

    @property
    def id(self) -> str:
        return (
            f"{self.model.label}-{self.label}-s{self.seed}" if self.role != "oracle" else f"{self.label}-s{self.seed}"
        )


def cells(suite: Suite, untrained: Sequence[int] = (UNTRAINED_SEED,)) -> Iterator[Cell]:
    """Yields the base, then the objectives for every seed, then the oracles (with the first model's number of bins).

    Args:
        untrained: the seeds of the base and the oracles; earlier code sampled them with every seed of the suite.
    """
    for model in suite.models:
        for seed in untrained:
            yield Cell("base", model, None, seed)
        for objective in suite.objectives:
            for seed in suite.seeds:
                yield Cell("trained", model, objective, seed)
    bins = {key: value for key, value in suite.models[0].settings.items() if key == "bins"}
    for oracle in ORACLES:
        for seed in untrained:
            yield Cell("oracle", NamedModel(name=oracle, label=oracle, **bins), None, seed)


def after_sft(objective: NamedObjective) -> str:
    """Returns the label of the row that shows a chain as it is before its last stage."""
    return f"{objective.label} after sft"


def chains(suite: Suite) -> list[NamedObjective]:
    """Returns the objectives that a further stage follows."""
    return [objective for objective in suite.objectives if objective.then is not None]


def select_cells(ids: Mapping[Key, str], pattern: str | None, option: str) -> list[Key]:
    """Returns the keys of the cells whose id matches a pattern as of a shell ("*-ce-*"); all without one.

    Args:
        ids: The cells to choose from, each with its id.
        option: How the command line calls the pattern. Raises ConfigError, naming it, where no cell matches.
    """
    chosen = [key for key, name in ids.items() if pattern is None or fnmatch.fnmatch(name, pattern)]
    if not chosen:
        raise ConfigError(f"{option} {pattern!r}: matches none of: {', '.join(ids.values())}")
    return chosen


def rows(suite: Suite) -> list[str]:
    """Lists the labels of the table's rows, in order."""
    objectives_ = [objective.label for objective in suite.objectives]
    early = [stop.label for stop in suite.early_stops]
    return [
        BASE,
        *objectives_,
        *map(after_sft, chains(suite)),
        *early,
        *(row.label for row in suite.resampled),
        *ORACLES,
    ]


def listed(folder: Path) -> tuple[Suite, list[tuple[Cell, str]]]:
    """Reads the suite of an output folder, and its cells with their digests, in order. DataError if it holds no run."""
    suite = _suite(folder / SUITE)
    planned, earlier = list(cells(suite)), list(cells(suite, untrained=suite.seeds))
    digests = _digests(folder / DIGESTS, {len(planned), len(earlier)})
    return suite, list(zip(planned if len(digests) == len(planned) else earlier, digests, strict=True))


def _suite(path: Path) -> Suite:
    try:
        suite = Suite.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: not found; expected the output folder of a run") from None
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}") from None
    for problem in impossible_values(suite.model_dump(mode="json")):
        raise DataError(f"{path}: field {shorten(problem)}")
    return suite


def _digests(path: Path, numbers: set[int]) -> list[str]:
    try:
        digests = json.loads(path.read_text())
    except (OSError, ValueError):
        raise DataError(f"{path}: expected a JSON list of digests; run the suite again") from None
    if not isinstance(digests, list) or len(digests) not in numbers or not all(map(_is_digest, digests)):
        raise DataError(f"{path}: expected the digests of the suite's {min(numbers)} cells; run the suite again")
    return digests


def _is_digest(value: object) -> bool:
    """Says whether it is a SHA-256: it becomes part of a folder's name, so nothing else will do."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
