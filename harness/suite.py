"""Suite files: schema, validation (every mistake at once), expansion into cells.

A suite is data: YAML read with the safe loader, no code. What each key means is on the models below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness import objectives, registry
from harness.batches import Batching
from harness.errors import ConfigError, unknown
from harness.estimates import figure_names
from harness.records import Role
from harness.targets import PATTERN, members_per_image

BASE = "base"
ORACLES = ("oracle-uniform", "oracle-collapsed")
SCORES = ("category", "name", "sequence", "constant")

Positive = Annotated[int, Field(ge=1)]
Label = Annotated[str, Field(pattern=r"^[^/\\.\x00-\x1f][^/\\\x00-\x1f]*$")]
"""Becomes part of a folder's name: it must not lead out of the output folder. Tables escape whatever else it has."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Named(BaseModel):
    """A name, and settings that only the thing of that name understands."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class NamedBenchmark(_Named):
    """`benchmark: {name: shapes, ...}`"""


class _Labelled(_Named):
    """`label` is how tables and hypotheses call it; by default its name."""

    label: Label

    @model_validator(mode="before")
    @classmethod
    def _default_label(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        return {"label": value["name"], **value} if isinstance(value, Mapping) and "name" in value else value


class NamedModel(_Labelled):
    """One of `models:`."""


class NamedObjective(_Labelled):
    """One of `objectives:`. `train`: what this row has otherwise than the suite's `train`, e.g. {targets: all(4)}."""

    train: Mapping[str, Any] = {}


class Probe(_Strict):
    """What is watched in training: every `every` steps (and before the first), on the first `images` images of the
    calibration split. See harness.probe."""

    every: Positive
    images: Positive = 32


class Train(_Strict):
    """`targets`: canonical, random or all(n); `batching`: shuffled, grouped or collision with its
    `collision_rate`: see harness.targets and harness.batches. `micro_batch`: sequences per forward pass (gradients
    accumulate up to batch_size); default all at once.

    The learning rate is constant after `warm_up` steps, so that every step of `eval_at` is a fair place to
    stop. The last step is always evaluated.
    """

    targets: Annotated[str, Field(pattern=PATTERN)] = "canonical"
    batching: Batching = "shuffled"
    collision_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    steps: Positive = 240
    batch_size: Positive = 16
    micro_batch: Positive | None = None
    lr: Annotated[float, Field(gt=0)] = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warm_up: Annotated[int, Field(ge=0)] = 10
    clip: Annotated[float, Field(gt=0)] = 1.0
    log_every: Positive = 20
    eval_at: tuple[Positive, ...] = ()
    probe: Probe | None = None

    @model_validator(mode="after")
    def _evaluations_in_range(self) -> Train:
        late = [step for step in self.eval_at if step > self.steps]
        if late:
            raise ValueError(f"eval_at: expected steps up to {self.steps}, got {late}")
        return self

    @model_validator(mode="after")
    def _batches_can_be_made(self) -> Train:
        if (self.batching == "collision") != (self.collision_rate is not None):
            raise ValueError("collision_rate: expected with batching: collision, and only there")
        if self.batching == "grouped" and self.members == 1:
            raise ValueError(f"batching: grouped needs targets: all(n), got {self.targets}")
        if self.batching == "grouped" and self.batch_size % self.members:
            raise ValueError(f"batch_size: expected a multiple of {self.targets}'s n, got {self.batch_size}")
        return self

    @property
    def members(self) -> int:
        """Target sequences of an image in an epoch."""
        return members_per_image(self.targets)

    @property
    def set_size(self) -> int:
        """Different targets of one image that share a batch by design, 1 if it is left to chance."""
        if self.targets == "canonical" or self.batching == "shuffled":
            return 1
        return self.members if self.batching == "grouped" else 2 if self.collision_rate else 1

    @property
    def evaluations(self) -> tuple[int, ...]:
        """Steps that are evaluated; the last one always is."""
        return tuple(sorted({*self.eval_at, self.steps}))

    @property
    def probes(self) -> tuple[int, ...]:
        """Steps after which the probe set is looked at; the last one always is. Empty without a probe."""
        return () if self.probe is None else tuple(sorted({*range(0, self.steps + 1, self.probe.every), self.steps}))


class SampleSettings(_Strict):
    """K samples per image beside the greedy answer, at `temperature`. At each of `temperatures` the model of the last
    step is sampled too, with the same random numbers: curves of recall, precision and diversity."""

    samples: Annotated[int, Field(ge=2, le=1000)] = 8
    temperature: Annotated[float, Field(gt=0)] = 1.0
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = ()
    max_tokens: Positive = 64
    batch_images: Positive = 32
    grammar: bool = False

    @property
    def curve(self) -> tuple[float, ...]:
        """Every temperature that the last step is sampled at, ascending."""
        return tuple(sorted({self.temperature, *self.temperatures}))


class EarlyStop(_Strict):
    """A row made of `objective`'s cells at the evaluated step whose mean AP is nearest to the final mean AP of
    `at_ap_of`: what less training alone gives."""

    label: Label
    objective: str
    at_ap_of: str


class Resampled(_Strict):
    """A row made of `objective`'s cells, sampled at another of `sample.temperatures`."""

    label: Label
    objective: str
    temperature: float


class Hypothesis(_Strict):
    """What the suite expects before it runs: that metric(a) - metric(b) lies beyond `margin`."""

    id: str
    claim: str
    metric: str
    a: str
    b: str
    direction: Literal["greater", "less"] = "greater"
    margin: float = 0.0


class Suite(_Strict):
    """Every cell is a (model, objective, seed). `keep`: the fine-tuned weights of the last step, of all evaluated
    steps, or none; it changes no result, so it is not part of a cell's digest. `images`: what becomes of a picture that
    cannot be read, or is not of the size that its annotations say: `fail` fails the cell that reads it, `skip` leaves
    it out of its split, and those that were left out are part of the digest (see harness.skipping)."""

    suite: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    benchmark: NamedBenchmark
    models: Annotated[tuple[NamedModel, ...], Field(min_length=1)]
    objectives: tuple[NamedObjective, ...] = ()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    train: Train = Train()
    sample: SampleSettings = SampleSettings()
    score: Literal["category", "name", "sequence", "constant"] = "category"
    keep: Literal["all", "last", "none"] = "last"
    images: Literal["fail", "skip"] = "fail"
    early_stops: tuple[EarlyStop, ...] = ()
    resampled: tuple[Resampled, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"expected distinct seeds, got {list(seeds)}")
        return seeds

    def train_of(self, objective: NamedObjective) -> Train:
        """How a row is trained: the suite's `train`, but for what the objective's own `train` says."""
        return Train.model_validate({**self.train.model_dump(mode="json"), **objective.train})


@dataclass(frozen=True, slots=True)
class Cell:
    """One (model, objective, seed) of a suite: the unit of work, caching and resume."""

    role: Role
    model: NamedModel
    objective: NamedObjective | None
    seed: int

    @property
    def label(self) -> str:
        """The row it belongs to."""
        if self.role == "oracle":
            return self.model.name
        return BASE if self.objective is None else self.objective.label

    @property
    def id(self) -> str:
        return (
            f"{self.model.label}-{self.label}-s{self.seed}" if self.role != "oracle" else f"{self.label}-s{self.seed}"
        )


def load(reference: str) -> Suite:
    """A suite by path, or by the name of a shipped one. ConfigError lists every mistake."""
    shipped = registry.shipped_suites()
    path = Path(reference)
    if not path.is_file():
        if reference not in shipped:
            if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
                raise ConfigError(f"{reference}: no such suite file")
            raise ConfigError(unknown("suite", reference, shipped))
        path = shipped[reference]
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: expected YAML: {' '.join(str(error).split())}") from None
    return parse(content, str(path))


def parse(content: object, where: str) -> Suite:
    """Validates the content of a suite file: schema, names, settings and references between them."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a mapping with the keys {', '.join(Suite.model_fields)}")
    problems = []
    suite = None
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        problems += [_schema_problem(item) for item in error.errors() if not _follows_from_another(item)]
    problems += _content_problems(content if suite is None else suite.model_dump(mode="python"))
    if suite is not None:
        problems += _reference_problems(suite)
    if problems or suite is None:
        raise ConfigError(*(f"{where}: {problem}" for problem in problems))
    return suite


def cells(suite: Suite) -> Iterator[Cell]:
    """Base, then the objectives, then the oracles (with the first model's number of bins), for every seed."""
    for model in suite.models:
        for seed in suite.seeds:
            yield Cell("base", model, None, seed)
        for objective in suite.objectives:
            for seed in suite.seeds:
                yield Cell("trained", model, objective, seed)
    bins = {key: value for key, value in suite.models[0].settings.items() if key == "bins"}
    for oracle in ORACLES:
        for seed in suite.seeds:
            yield Cell("oracle", NamedModel(name=oracle, label=oracle, **bins), None, seed)


def rows(suite: Suite) -> list[str]:
    """Labels of the table's rows, in order."""
    objectives_ = [objective.label for objective in suite.objectives]
    early = [stop.label for stop in suite.early_stops]
    return [BASE, *objectives_, *early, *(row.label for row in suite.resampled), *ORACLES]


def _follows_from_another(item: Any) -> bool:
    """pydantic calls a list too short whose items are all wrong."""
    return item["type"] == "too_short" and len(item["input"]) > 0


def _schema_problem(item: Any, prefix: Sequence[str | int] = ()) -> str:
    """One mistake in words; `prefix`: where the part that was validated stands in the suite."""
    location = (*prefix, *item["loc"])
    where = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        *parent, key = location
        parts: dict[str, type[BaseModel]] = {
            "train": Train,
            "probe": Probe,
            "sample": SampleSettings,
            "hypotheses": Hypothesis,
            "early_stops": EarlyStop,
            "resampled": Resampled,
        }
        nearest = next((parts[part] for part in reversed(parent) if part in parts), Suite)
        return unknown(f"key {where}:" if parent else "key", str(key), nearest.model_fields)
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if item["type"] == "missing" else f", got {item['input']!r}"
    return f"{where}: {message}{shown}" if item["type"] != "value_error" else f"{where}: {message}"


def _content_problems(content: Mapping[str, Any]) -> list[str]:
    """Unknown names and wrong settings, as far as the content has the right shape."""
    problems = []
    for kind, key in (("benchmark", "benchmark"), ("model", "models")):
        for name, settings in _named(content.get(key)):
            problems += registry.problems(kind, name, settings)  # type: ignore[arg-type]
    for name, settings in _named(content.get("objectives"), "train"):
        problems += objectives.problems(name, settings)
    return problems


def _named(value: object, *own: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, settings) of everything that can be read as such; the schema reports the rest. `own`: keys that are
    no settings, beside name and label."""
    items = value if isinstance(value, list | tuple) else [value]
    pairs = [{"name": item} if isinstance(item, str) else item for item in items]
    return [
        (
            pair["name"],
            {key: setting for key, setting in pair.items() if key not in ("name", "label", *own, *_odd(pair))},
        )
        for pair in pairs
        if isinstance(pair, Mapping) and isinstance(pair.get("name"), str)
    ]


def _odd(pair: Mapping[Any, Any]) -> list[Any]:
    """Keys that are no strings (YAML reads `on:` as true)."""
    return [key for key in pair if not isinstance(key, str)]


def _reference_problems(suite: Suite) -> list[str]:
    """Labels that clash, and hypotheses that name a row which the suite does not make."""
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
        for label in (hypothesis.a, hypothesis.b):
            if label not in labels:
                problems.append(f"hypothesis {hypothesis.id}: {unknown('row', label, labels)}")
        metrics = figure_names(suite.sample.samples)
        if hypothesis.metric not in metrics:
            problems.append(f"hypothesis {hypothesis.id}: {unknown('metric', hypothesis.metric, metrics)}")
    return problems + _train_problems(suite)


def _train_problems(suite: Suite) -> list[str]:
    """Training that cannot be done as the suite and its rows say."""
    problems = _micro_problems("train", suite.train)
    for objective in suite.objectives:
        where = f"objectives.{objective.label}.train"
        try:
            plan = suite.train_of(objective)
        except ValidationError as error:
            problems += [_schema_problem(item, ("objectives", objective.label, "train")) for item in error.errors()]
            continue
        if objective.train:
            problems += _micro_problems(where, plan)
        problems += _supply_problems(objective, plan)
    return problems


def _micro_problems(where: str, plan: Train) -> list[str]:
    micro = plan.micro_batch
    if micro is None or plan.batch_size % micro == 0:
        return []
    return [f"{where}.micro_batch: expected a divisor of batch_size {plan.batch_size}, got {micro}"]


def _supply_problems(objective: NamedObjective, plan: Train) -> list[str]:
    """An objective that needs sets of targets, which the training data conditions do not supply."""
    if objectives.problems(objective.name, objective.settings):  # told already
        return []
    if "sets" not in objectives.needs(objective.name, objective.settings):
        return []
    size, micro = plan.set_size, plan.micro_batch
    if size == 1:
        return [
            f"objective {objective.label}: {objective.name} needs several targets of an image in a batch, but "
            f"train has targets: {plan.targets}, batching: {plan.batching}; use targets: all(n) with "
            "batching: grouped, or targets: random with batching: collision and a collision_rate above 0"
        ]
    if micro is not None and micro < size:
        return [f"train.micro_batch: expected at least the {size} targets of a set ({objective.name}), got {micro}"]
    return []


def with_seeds(suite: Suite, text: str) -> Suite:
    """The suite with the seeds of a command line ("0,1,2") in place of its own."""
    try:
        return suite.model_validate({**suite.model_dump(mode="json"), "seeds": [int(part) for part in text.split(",")]})
    except (ValueError, ValidationError):
        raise ConfigError(f"--seeds: expected distinct integers from 0, as in 0,1; got {text!r}") from None
