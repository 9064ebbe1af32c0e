"""What a suite says, and its expansion into cells. Its files are read by harness.suite.load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.sequence import Task
from harness.suite.candidates import Sweep, SweptRow, Tune, Value, check_sweep, swept_rows
from harness.suite.stage_settings import Then
from harness.suite.train_settings import Positive, Train
from harness.system.files import PLAIN_NAME
from harness.system.strict import DigestedModel, StrictModel

SCORES = ("category", "name", "sequence", "constant")

Label = Annotated[str, Field(pattern=PLAIN_NAME)]
"""Becomes part of a folder's name: it must not lead out of the output folder. Tables escape whatever else it has."""


class _Named(BaseModel):
    """A part of a suite that has a name, and settings that only the thing of that name understands."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str
    """What it is found by; a bare name is {name: NAME}."""

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class NamedBenchmark(_Named):
    """The images that a suite is about. All keys but the name are settings of its own (`detmodes list benchmarks`)."""


class _Labelled(_Named):
    """Of parts that tables and hypotheses have a label for."""

    label: Label
    """What tables and hypotheses call it; by default its name."""

    @model_validator(mode="before")
    @classmethod
    def _default_label(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        return {"label": value["name"], **value} if isinstance(value, Mapping) and "name" in value else value


class NamedModel(_Labelled):
    """A model that the suite fine-tunes. All keys but these are settings of its own."""

    train: Mapping[str, Any] = {}
    """What this model is trained with otherwise than the suite's `train` says, e.g. {lr: 1.0e-5}; the `train` of an
    objective goes before it."""


class NamedObjective(_Labelled):
    """A training objective, whose fine-tuned models are a row of the tables."""

    train: Mapping[str, Any] = {}
    """What this row has otherwise than the suite's `train`, e.g. {targets: all(4)}."""
    then: Then | None = None
    """The stage that follows fine-tuning in the same cell, e.g. {name: grpo, steps: 60}."""
    title: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    """What figures call the row, in words, e.g. "SED-SFT, weight 5"; by default its label."""


class SampleSettings(DigestedModel):
    """What is asked of a model when it is evaluated: the greedy answer, and samples. At each of `temperatures` the
    model of the last step is sampled too, with the same random numbers: curves of recall, precision, diversity."""

    LATER: ClassVar[frozenset[str]] = frozenset({"precision"})

    samples: Annotated[int, Field(ge=2, le=1000)] = 8
    """K, answers sampled for an image beside the greedy one."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by it before an answer is sampled."""
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Further temperatures, at the last step only."""
    max_tokens: Positive = 64
    """Tokens after which an answer is cut off."""
    batch_images: Positive = 32
    """Images that are answered at once; it changes no answer."""
    grammar: bool = False
    """Whether tokens that cannot stand in an answer are left out when one is sampled."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numbers of all that is asked outside training (answers, scores, held-out loss, probe); auto is as in training."""

    @property
    def described(self) -> dict[str, Any]:
        """Returns the settings as they are in a record and in the digest of a cell."""
        return self.without_unused(self.model_dump(mode="json"))

    @property
    def curve(self) -> tuple[float, ...]:
        """Every temperature that the last step is sampled at, ascending."""
        return tuple(sorted({self.temperature, *self.temperatures}))


class Prompt(StrictModel):
    """What a model is asked about an image (see harness.sequence.prompts)."""

    kind: Literal["open", "categories"] = "open"
    """open asks for everything; categories asks about the categories of an image that were verified to be there or not,
    by their first names, and an answer is what is said to all these questions."""
    chunk: Positive | None = None
    """Categories of a question; with `kind: categories` only."""
    negatives: Annotated[int, Field(ge=0)] | None = None
    """Absent categories of an image that are asked about in training, drawn from the seed; by default all."""
    evaluate: Literal["verified", "all"] = "verified"
    """all: validation images are asked about all of the benchmark's categories, as where nothing is known of a picture;
    official figures count the verified ones alone."""

    @model_validator(mode="after")
    def _settings_of_the_kind(self) -> Prompt:
        if (self.kind == "categories") != (self.chunk is not None):
            raise ValueError("chunk: expected with kind: categories, and only there")
        if self.kind == "open" and (self.negatives, self.evaluate) != (None, "verified"):
            raise ValueError("negatives, evaluate: expected with kind: categories, and only there")
        return self

    @property
    def described(self) -> dict[str, Any] | None:
        """Returns the prompt as it is in a record; None for the open prompt, which the first records did not have."""
        return None if self.kind == "open" else self.model_dump(mode="json")


class Resources(StrictModel):
    """What a cell gets of a Ray cluster (see harness.run.executors.ray_cluster)."""

    cpus: Positive = 1
    """Whole CPUs."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """Whole GPUs, or a share of one."""

    @field_validator("gpus")
    @classmethod
    def _whole_or_shared(cls, gpus: float) -> float:
        if gpus > 1 and gpus % 1:
            raise ValueError(f"expected a whole number of GPUs or a share of one, got {gpus:g}")
        return gpus


class EarlyStop(StrictModel):
    """A row made of an objective's cells where their path along training, from the base on, has the AP of another row,
    seed by seed: what less training alone gives. (Of suites from before `at: equal_AP`, which does this for one
    hypothesis.)"""

    label: Label
    """What tables call the row."""
    objective: str
    """Label of the objective."""
    at_ap_of: str
    """Label of the row whose AP it is read at."""


class Resampled(StrictModel):
    """A row made of an objective's cells, sampled at another temperature."""

    label: Label
    """What tables call the row."""
    objective: str
    """Label of the objective."""
    temperature: float
    """One of `sample.temperatures`."""


FEWEST_ROWS = 3
"""Any two points lie on a line."""


class Hypothesis(StrictModel):
    """What the suite expects before it runs: that metric(a) - metric(b) lies beyond the margin; without b, that
    metric(a) does; or, with `predictor`, that the correlation of two figures over rows does."""

    id: str
    """What tables call it."""
    claim: str
    """The expectation in words."""
    metric: str
    """A figure (`detmodes list measures`), or one with `_gain` for two rows with `then`."""
    a: str = ""
    """Label of a row, for each model; or MODEL/ROW, to compare two models."""
    b: str = ""
    """The row that it is compared with, named in the same way; without one, the figure of a itself is meant."""
    predictor: str = ""
    """A figure after fine-tuning, of `rows` with `then`, whose correlation with `metric` is meant: Pearson's over the
    rows, seed by seed."""
    rows: tuple[str, ...] = ()
    """Labels of three rows or more; with `predictor` only, in place of a and b."""
    at: Literal["equal_AP"] | None = None
    """equal_AP: b is read off its path along training where it has the AP of a (see harness.report.paths); both are
    trained with `schedule: constant` then."""
    direction: Literal["greater", "less"] = "greater"
    """On which side of the margin the difference is expected."""
    margin: float = 0.0
    """In the unit of the metric; of a correlation, from -1 to 1."""

    @model_validator(mode="after")
    def _a_difference_or_a_correlation(self) -> Hypothesis:
        if not self.predictor and (self.rows or not self.a):
            raise ValueError("expected a and b, a alone, or predictor and rows")
        if self.at and not self.b:
            raise ValueError("at: expected b, which is read at the AP of a")
        if self.predictor and (self.a or self.b or self.at or len(set(self.rows)) < FEWEST_ROWS):
            raise ValueError(f"predictor: expected {FEWEST_ROWS} rows or more in rows, and neither a, b nor at")
        return self

    @property
    def compared(self) -> str:
        """Returns what lies beyond the margin, in symbols."""
        if self.predictor:
            return f"correlation with {self.predictor} before, over {', '.join(self.rows)}"
        return f"{self.a} - {self.b}{' at equal AP' if self.at == 'equal_AP' else ''}" if self.b else self.a

    @property
    def model_rows(self) -> tuple[tuple[str | None, str], ...]:
        """Returns a and b, or the rows of a correlation, each as a model's label, None where it is about each model,
        and a row's."""
        named = (name.rpartition("/") for name in (*self.rows, self.a, self.b) if name)
        return tuple((model or None, row) for model, _, row in named)


class Suite(StrictModel):
    """An experiment. Every cell of it is a (model, objective, seed)."""

    suite: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Its name."""
    benchmark: NamedBenchmark
    """The images, by name, e.g. {name: shapes, domain: cluttered}."""
    models: Annotated[tuple[NamedModel, ...], Field(min_length=1)]
    """The models that are fine-tuned, by name, each with its settings (`detmodes list models`)."""
    objectives: tuple[NamedObjective, ...] = ()
    """The training objectives, by name, each with its settings (`detmodes list objectives`); without any, only the
    base is evaluated."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    """Of batches, targets and samples; each objective is trained once with each."""
    train: Train = Train()
    """How all rows are trained."""
    task: Task = "boxes"
    """What sequences are: the objects' names and boxes, a caption that mentions the objects, or a caption and then the
    boxes of what it mentions (see harness.sequence.captions)."""
    prompt: Prompt = Prompt()
    """What a model is asked about an image."""
    sample: SampleSettings = SampleSettings()
    """What is asked of a model when it is evaluated."""
    score: Literal["category", "name", "sequence", "constant"] = "category"
    """The confidence of a box: the probability of its category over all its names, of its name, of name and box; or
    constant, 1."""
    measures: tuple[str, ...] = ()
    """Measures of other packages, by name (`detmodes list measures`): tables show them, and a hypothesis may be about
    one. detmodes' own are always there."""
    keep: Literal["all", "last", "none"] = "last"
    """Which fine-tuned weights stay: those of all evaluated steps, of the last one, or none. It changes no result."""
    images: Literal["fail", "skip"] = "fail"
    """What becomes of a picture that cannot be read, or is not of the size that its annotations say: fail fails the
    cell that reads it, skip leaves it out of its split; which ones it left out is a part of what identifies a cell."""
    val_ids: Path | None = None
    """A file of image ids, separated by white space or commas: the validation split is these images alone."""
    resources: Resources = Resources()
    """What a cell gets of a Ray cluster."""
    tune: Tune | None = None
    """Candidates of learning rates, of which every objective gets its best one."""
    sweep: Mapping[str, tuple[Value, ...]] = {}
    """Several values of settings of training or of objectives, e.g. {lr: [1.0e-4, 3.0e-4], weight: [1, 5]}: each row
    becomes one for each combination of those that it has, with the values in its label (`ce-lr0.0001`). LABEL.SETTING
    is for the row of this label alone. A table shows them by value."""
    early_stops: tuple[EarlyStop, ...] = ()
    """Rows at the AP of other rows."""
    resampled: tuple[Resampled, ...] = ()
    """Rows at other temperatures."""
    hypotheses: tuple[Hypothesis, ...] = ()
    """What is expected, and tested when the run has ended."""
    overrides: tuple[str, ...] = ()
    """Written by a run: what `--set` of the command line changed, each as PATH=VALUE."""
    epoch_images: Annotated[int, Field(ge=1)] | None = None
    """Written by a run where some length is in epochs: how many training images, or questions about them, there are."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"expected distinct seeds, got {list(seeds)}")
        return seeds

    @field_validator("measures")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError(f"expected different measures, got {list(names)}")
        return names

    @field_validator("sweep")
    @classmethod
    def _different_values(cls, sweep: Sweep) -> Sweep:
        return check_sweep(sweep)

    @property
    def swept(self) -> list[SweptRow]:
        """The rows that `sweep` has made, in order."""
        return swept_rows(self.sweep, [(row.label, row.train, row.settings) for row in self.objectives])

    def train_of(self, model: NamedModel, objective: NamedObjective | None = None) -> Train:
        """How a row is trained, or may be: the suite's `train`, but for what the model's own says, and the objective's.
        In steps, once it is known how many training images there are."""
        changes = [model.train] if objective is None else [model.train, objective.train]
        plan = self.train.with_changes(*changes) if any(changes) else self.train
        return plan if self.epoch_images is None else plan.in_steps(self.epoch_images)

    def plans_of(self, model: NamedModel, objective: NamedObjective) -> tuple[Train, ...]:
        """The same of each of its stages, in order; each counts its own steps."""
        first, then = self.train_of(model, objective), objective.then
        return (first,) if then is None else (first, first.with_changes(then.planned))

    def described(self, model: NamedModel, objective: NamedObjective) -> dict[str, Any]:
        """How a row is trained, as a record has it. DataError where its stage names a file that cannot be read."""
        then = {} if objective.then is None else {"then": objective.then.described}
        return {**self.train_of(model, objective).described, **then}

    @property
    def counts_epochs(self) -> bool:
        """Whether the length of some training is in epochs."""
        trained = [model.train for model in self.models] + [objective.train for objective in self.objectives]
        return self.train.epochs is not None or any(changes.get("epochs") is not None for changes in trained)
