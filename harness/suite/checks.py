"""What is wrong with a suite beyond its schema, each problem as one line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from harness import objectives, registry
from harness.errors import shorten, unknown
from harness.metrics.catalogue import about_boxes, figure_names, gain_names
from harness.metrics.image_measures import described_measures, further_measures, measure_problems
from harness.suite.candidates import Tune
from harness.suite.cells import chains, rows
from harness.suite.schema import (
    EarlyStop,
    Hypothesis,
    Prompt,
    Resampled,
    Resources,
    SampleSettings,
    Suite,
)
from harness.suite.stage_base import StageSettings
from harness.suite.stage_settings import STAGES, Prefilter
from harness.suite.train_settings import AdamSettings, Group, MaxObjects, Probe, Train

HOMES: dict[str, type[BaseModel]] = {"train": Train, "sample": SampleSettings, "prompt": Prompt}
"""Parts of a suite whose keys are easily written one level too far out."""


def follows_from_another(item: Any) -> bool:
    """Says whether a mistake only repeats others: pydantic calls a list too short whose items are all wrong."""
    return item["type"] == "too_short" and len(item["input"]) > 0


VALUE_LENGTH = 200
"""Characters of a value in a message."""


def schema_problem(item: Any, prefix: Sequence[str | int] = ()) -> str:
    """Puts one of pydantic's mistakes into words; `prefix`: where the part that was validated stands in the suite."""
    location, stage = _without_tag((*prefix, *item["loc"]))
    where = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        *parent, key = location
        parts: dict[str, type[BaseModel]] = {
            "train": Train,
            "probe": Probe,
            "optimizer": AdamSettings,
            "groups": Group,
            "max_objects": MaxObjects,
            "prompt": Prompt,
            "sample": SampleSettings,
            "resources": Resources,
            "tune": Tune,
            "hypotheses": Hypothesis,
            "early_stops": EarlyStop,
            "resampled": Resampled,
            "then": stage,
            "prefilter": Prefilter,
        }
        nearest = next((parts[part] for part in reversed(parent) if part in parts), Suite)
        if nearest is Suite and (home := next((name for name in HOMES if key in HOMES[name].model_fields), None)):
            return f"key {where!r}: expected in {home}, as in {home}: {{{key}: {_shown(item['input'])}}}"
        return unknown(f"key {where}:" if parent else "key", str(key), nearest.model_fields)
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if item["type"] == "missing" else f", got {shorten(repr(item['input']), VALUE_LENGTH)}"
    if item["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message}{shown}"


def _shown(value: object) -> str:
    return shorten(str(value), VALUE_LENGTH)


def _without_tag(location: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], type[StageSettings]]:
    """pydantic puts the name of a stage between `then` and its keys: without it, and the settings that it names."""
    for index, part in enumerate(location[1:], 1):
        if location[index - 1] == "then" and part in STAGES:
            return (*location[:index], *location[index + 1 :]), STAGES[str(part)]
    return location, StageSettings


def content_problems(content: Mapping[str, Any]) -> list[str]:
    """Lists unknown names and wrong settings, as far as the content has the right shape."""
    problems = []
    for kind, key, more_keys in (("benchmark", "benchmark", ()), ("model", "models", ("train",))):
        for name, settings in _named(content.get(key), *more_keys):
            lines = registry.problems(kind, name, settings)  # type: ignore[arg-type]
            problems += lines if kind == "benchmark" else _say_where(name, settings, lines)
    measures = content.get("measures")
    for name in measures if isinstance(measures, list | tuple) else ():
        problems += [f"measures: {problem}" for problem in measure_problems(name)] if isinstance(name, str) else []
    for name, settings in _named(content.get("objectives"), "title", "train", "then"):
        problems += _say_where(name, settings, objectives.problems(name, settings))
    return problems


def _say_where(name: str, settings: Mapping[str, Any], problems: list[str]) -> list[str]:
    """Says of settings of training, which neither a model nor an objective has, where they are to be written."""
    misplaced = {
        f"unknown setting {key!r}": f"{name}: {key} is a setting of training: write train: {{{key}: {_shown(value)}}} "
        "beside its name, or into the suite's train for all rows"
        for key, value in settings.items()
        if key in Train.model_fields
    }
    return [
        next((message for start, message in misplaced.items() if start in problem), problem) for problem in problems
    ]


def _named(value: object, *more_keys: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, settings) of everything that can be read as such; the schema reports the rest. `own`: keys that are
    no settings, beside name and label."""
    items = value if isinstance(value, list | tuple) else [value]
    pairs = [{"name": item} if isinstance(item, str) else item for item in items]
    return [
        (
            pair["name"],
            {key: setting for key, setting in pair.items() if key not in ("name", "label", *more_keys, *_odd(pair))},
        )
        for pair in pairs
        if isinstance(pair, Mapping) and isinstance(pair.get("name"), str)
    ]


def _odd(pair: Mapping[Any, Any]) -> list[Any]:
    """Lists the keys that are no strings (YAML reads `on:` as true)."""
    return [key for key in pair if not isinstance(key, str)]


def reference_problems(suite: Suite) -> list[str]:
    """Lists labels that clash, and hypotheses that name a row which the suite does not make."""
    labels = rows(suite)
    problems = [f"label {label!r}: used twice" for label in sorted({x for x in labels if labels.count(x) > 1})]
    models = [model.label for model in suite.models]
    problems += [f"model label {label!r}: used twice" for label in sorted({x for x in models if models.count(x) > 1})]
    trained = [objective.label for objective in suite.objectives]
    for stop in suite.early_stops:
        for label in (stop.objective, stop.at_ap_of):
            if label not in trained:
                problems.append(f"early_stops.{stop.label}: {unknown('objective label', label, trained)}")
    for row in suite.resampled:
        if row.objective not in trained:
            problems.append(f"resampled.{row.label}: {unknown('objective label', row.objective, trained)}")
        if row.temperature not in suite.sample.curve:
            expected = f"one of sample.temperatures {list(suite.sample.curve)}"
            problems.append(f"resampled.{row.label}.temperature: expected {expected}, got {row.temperature:g}")
    for hypothesis in suite.hypotheses:
        problems += [f"hypothesis {hypothesis.id}: {problem}" for problem in _hypothesis_problems(suite, hypothesis)]
    return problems + _caption_problems(suite) + _tune_problems(suite)


def _hypothesis_problems(suite: Suite, hypothesis: Hypothesis) -> list[str]:
    """Says which rows or models a hypothesis names that are not there, and what it cannot be about."""
    if hypothesis.predictor:
        return _correlation_problems(suite, hypothesis)
    labels, models = rows(suite), [model.label for model in suite.models]
    trained = [objective.label for objective in suite.objectives]
    chained = {objective.label for objective in chains(suite)}
    compared = [row for _, row in hypothesis.model_rows]
    named = [model for model, _ in hypothesis.model_rows]
    shown = ", ".join(name for name in (hypothesis.a, hypothesis.b) if name)
    problems = [unknown("row", row, labels) for row in compared if row not in labels]
    problems += [unknown("model label", name, models) for name in named if name and name not in models]
    if any(named) and not all(named):
        problems.append(f"expected MODEL/ROW for both of a and b, or a row for both, got {shown}")
    if hypothesis.at is not None and compared[-1] in labels and compared[-1] not in trained:
        expected = unknown("objective label", compared[-1], trained)
        problems.append(f"at: {hypothesis.at}: b has a path along training: {expected}")
    metrics, gained = figure_names(suite.sample.samples, suite.measures), gain_names(suite.sample.samples)
    if {*compared} <= chained:
        metrics += gained
    elif hypothesis.metric in gained:
        number = "two rows" if hypothesis.b else "a row"
        return [*problems, f"{hypothesis.metric}: expected {number} with then, got {shown}"]
    if hypothesis.metric not in metrics:
        problems.append(unknown("metric", hypothesis.metric, metrics))
    return problems


def _correlation_problems(suite: Suite, hypothesis: Hypothesis) -> list[str]:
    """Says which rows or figures of a correlation are not there."""
    chained = [objective.label for objective in chains(suite)]
    metrics, gained = figure_names(suite.sample.samples, suite.measures), gain_names(suite.sample.samples)
    problems = [f"rows: {unknown('row with then', row, chained)}" for row in hypothesis.rows if row not in chained]
    if hypothesis.predictor not in metrics:
        problems.append(f"predictor: {unknown('metric', hypothesis.predictor, metrics)}")
    if hypothesis.metric not in (*metrics, *gained):
        problems.append(unknown("metric", hypothesis.metric, [*metrics, *gained]))
    return problems


def _tune_problems(suite: Suite) -> list[str]:
    """Lists what cannot be tuned as the suite says."""
    tune = suite.tune
    if tune is None:
        return []
    problems = [
        f"objectives.{objective.label}.train.lr: expected none beside tune, which chooses it"
        for objective in suite.objectives
        if "lr" in objective.train
    ]
    if not suite.objectives:
        problems.append("tune: expected objectives to tune")
    if len(suite.models) > 1:
        problems.append("tune: expected one model: a row has one learning rate")
    if tune.seed in suite.seeds:
        problems.append(f"tune.seed: expected one that is none of seeds {list(suite.seeds)}, got {tune.seed}")
    if tune.criterion == "AP" and suite.task == "caption":
        problems.append("tune.criterion: task: caption has no AP; use heldout_nll")
    return problems


def _caption_problems(suite: Suite) -> list[str]:
    """Lists what the suite asks for that a task with captions does not have."""
    problems = []
    if suite.task != "boxes" and suite.sample.grammar:
        problems.append(f"sample.grammar: task: {suite.task} has no decoding grammar; set grammar: false")
    if suite.task != "boxes" and suite.prompt.kind != "open":
        problems.append(f"prompt.kind: task: {suite.task} has the open prompt only, got {suite.prompt.kind}")
    problems += [
        f"objectives.{objective.label}.then: nsft corrects lists of boxes, not task: {suite.task}; use another stage"
        for objective in chains(suite)
        if suite.task != "boxes" and objective.then is not None and objective.then.name == "nsft"
    ]
    if suite.task != "caption":
        return problems
    if suite.early_stops:
        problems.append("early_stops: task: caption has no AP to stop at")
    problems += [
        f"hypothesis {stated.id}: at: task: caption has no AP to compare at"
        for stated in suite.hypotheses
        if stated.at is not None
    ]
    return problems + [
        f"hypothesis {stated.id}: task: caption has no boxes, so {stated.metric} is undefined; use recall, precision "
        "or a figure of diversity"
        for stated in suite.hypotheses
        if about_boxes(stated.metric, further_measures(described_measures(suite.measures), suite.measures))
    ]
