"""Several values of a setting: `tune:` gives every row the learning rate that suits it, `sweep:` makes a row of each.

In:  the content of a suite file.
Out: the same with a row for each combination of what is swept; and for a report, which values a row has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from harness import objectives
from harness.errors import ConfigError, unknown
from harness.suite.train_settings import Train
from harness.system.strict import StrictModel

Value = bool | int | float | str
Sweep = Mapping[str, tuple[Value, ...]]


class Tune(StrictModel):
    """Every objective gets the one of several learning rates that suits it, so that a comparison does not turn on one
    that suits some of them (see harness.run.tuning). Each is trained with each, stages after fine-tuning left out, and
    evaluated on the calibration split."""

    lr: tuple[Annotated[float, Field(gt=0)], ...]
    """Two or more learning rates, the same for every objective."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of each trial; by default as many as the row is trained for."""
    criterion: Literal["AP", "heldout_nll"] = "AP"
    """What is best: the highest AP of the greedy answers, or the lowest held-out loss."""
    seed: Annotated[int, Field(ge=0)] = 1000
    """Of all trials; none of the suite's."""

    @field_validator("lr")
    @classmethod
    def _different(cls, lr: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(lr)) != len(lr) or len(lr) < 2:
            raise ValueError(f"expected two or more different learning rates, got {list(lr)}")
        return lr


@dataclass(frozen=True, slots=True)
class SweptRow:
    """A row that a sweep has made: its label, that of the row it was made of, and its value of each swept setting."""

    label: str
    made_of: str
    values: Mapping[str, Value]


def check_sweep(sweep: Sweep) -> Sweep:
    """Returns the values as they are. Raises ValueError where a setting has fewer than two different ones."""
    for setting, values in sweep.items():
        if len(set(values)) != len(values) or len(values) < 2:
            raise ValueError(f"{setting}: expected two or more different values, got {list(values)}")
    return sweep


def expand_sweep(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a suite with a row for each combination of the swept values, in the place of each row that
    has such settings. What cannot be read as a sweep or a row is left to the schema.

    Raises:
        ConfigError: where no row has a setting.
    """
    sweep, rows = content.get("sweep"), content.get("objectives")
    if not isinstance(sweep, Mapping) or not isinstance(rows, list | tuple):
        return dict(content)
    if not all(isinstance(values, list | tuple) for values in sweep.values()):
        return dict(content)
    named = [{"name": row} if isinstance(row, str) else row for row in rows]
    named = [row for row in named if isinstance(row, Mapping) and isinstance(row.get("name"), str)]
    if unused := [setting for setting in sweep if not any(_has(row, setting) for row in named)]:
        raise ConfigError(*(f"sweep: {unknown('setting of any row', str(name), _settings(named))}" for name in unused))
    expanded = [copy for row in rows for copy in _copies(row, sweep)]
    return {**content, "objectives": expanded}


def swept_rows(sweep: Sweep, rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> list[SweptRow]:
    """Lists the rows that a sweep has made, in order.

    Args:
        rows: of the expanded suite: the label of each, its own settings of training, and those of its objective.
    """
    made = []
    for label, train, settings in rows:
        values: dict[str, Value] = {}
        for setting, candidates in sweep.items():
            key = setting.rpartition(".")[2]
            value = train.get(key) if key in Train.model_fields else settings.get(key)
            if value in candidates and _suffix({setting: value}) in label:
                values[setting] = value
        suffix = _suffix(values)
        if values and label.endswith(suffix):
            made.append(SweptRow(label, label.removesuffix(suffix), {_key(name): v for name, v in values.items()}))
    return made


def _copies(row: Any, sweep: Mapping[str, Sequence[Value]]) -> Iterator[Any]:
    """Yields a row for each combination of the values of its swept settings; itself where it has none."""
    settings = [setting for setting in sweep if _has(row, setting)]
    if not settings:
        yield row
        return
    whole = {"name": row} if isinstance(row, str) else dict(row)
    for combination in product(*(sweep[setting] for setting in settings)):
        values = dict(zip(settings, combination, strict=True))
        copy = {**whole, "label": _label(whole) + _suffix(values)}
        for setting, value in values.items():
            key = _key(setting)
            if key in Train.model_fields:
                copy["train"] = {**(copy.get("train") or {}), key: value}
            else:
                copy[key] = value
        yield copy


def _has(row: Any, setting: object) -> bool:
    """Whether a setting is one of training or of the row's objective; LABEL.SETTING is about the row of this label."""
    whole = {"name": row} if isinstance(row, str) else row
    if not isinstance(whole, Mapping) or not isinstance(whole.get("name"), str) or not isinstance(setting, str):
        return False
    about, _, key = setting.rpartition(".")
    spec = _spec(whole["name"])
    has_key = key in Train.model_fields or (spec is not None and key in spec.settings)
    return has_key and about in ("", _label(whole))


def _settings(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names everything that may be swept."""
    specs = [_spec(row["name"]) for row in rows]
    return {*Train.model_fields, *(key for spec in specs if spec is not None for key in spec.settings)}


def _spec(name: str) -> objectives.ObjectiveSpec | None:
    """Returns None for an objective that cannot be used, which is told where its settings are checked."""
    return None if objectives.OBJECTIVES.problems(name) else objectives.OBJECTIVES[name]


def _label(row: Mapping[str, Any]) -> str:
    return str(row.get("label", row["name"]))


def _key(setting: str) -> str:
    return setting.rpartition(".")[2]


def _suffix(values: Mapping[str, Any]) -> str:
    """ "-lr0.0003-weight5": what the label of a row has at its end."""
    return "".join(f"-{_key(setting)}{shown_value(value)}" for setting, value in values.items())


def shown_value(value: Value) -> str:
    """A value as labels and tables have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_")
