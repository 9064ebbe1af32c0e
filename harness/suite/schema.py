"""What a suite says, and its expansion into cells. Its files are read by harness.suite.load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.errors import unknown
from harness.sequence import KINDS, Task
from harness.sequence.targets import PATTERN, members_per_image
from harness.suite.stage_base import Batching
from harness.suite.stage_settings import Then
from harness.suite.tune import Tune
from harness.system.files import PLAIN_NAME
from harness.system.strict import StrictModel

SCORES = ("category", "name", "sequence", "constant")

LATER = ("eval_images", "gradient_checkpointing", "groups", "loss_weights", "max_objects", "micro_tokens", "precision")
"""Settings of `train` that the first records did not have."""

Positive = Annotated[int, Field(ge=1)]
Label = Annotated[str, Field(pattern=PLAIN_NAME)]
"""Becomes part of a folder's name: it must not lead out of the output folder. Tables escape whatever else it has."""


class _Named(BaseModel):
    """A part of a suite that has a name, and settings that only the thing of that name understands."""

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
    """The images that a suite is about: `benchmark: {name: shapes, ...}`."""


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
    """A model that the suite fine-tunes, one of `models:`."""


class NamedObjective(_Labelled):
    """One of `objectives:`. `train`: what this row has otherwise than the suite's `train`, e.g. {targets: all(4)}.
    `then`: the stage that follows in the same cell, e.g. {name: grpo, steps: 60} (see harness.suite.stage_settings)."""

    train: Mapping[str, Any] = {}
    then: Then | None = None


class Probe(StrictModel):
    """What is watched in training: every `every` steps (and before the first), on the first `images` images of the
    calibration split. See harness.evaluation.probe."""

    every: Positive
    images: Positive = 32


class Group(StrictModel):
    """One of `train.groups`: parameters whose name matches the pattern (as in a shell) have a learning rate or a weight
    decay of their own; what is not given is that of `train`."""

    match: str
    lr: Annotated[float, Field(ge=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class MaxObjects(StrictModel):
    """`train.max_objects`: a target lists at most `number` objects of its image, so that it stays within what a model
    can read. `drop`: which ones are left out, `random` ones, others in every epoch, or the `smallest` by area.
    `max_objects: 20` is {number: 20, drop: random}. The record counts the images and objects concerned."""

    number: Positive
    drop: Literal["random", "smallest"] = "random"

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_number(cls, value: Any) -> Any:
        return {"number": value} if isinstance(value, int) and not isinstance(value, bool) else value


class Train(StrictModel):
    """`targets`: canonical, random or all(n); `batching`: shuffled, grouped or collision with its
    `collision_rate`: see harness.sequence.targets and harness.training.schedule. `micro_batch`: sequences per forward
    pass (gradients accumulate up to batch_size); default all at once. `micro_tokens`, instead: positions per forward
    pass, prompts and padding included; the sequences of a batch are then sorted by length, so that less is padded.
    `loss_weights`: what the loss at tokens of a kind is multiplied with, e.g. {location: 0.5}; 1 where none is given.
    It is still divided by the number of all target tokens.
    `eval_images`: how many validation images are asked about at the steps of `eval_at` before the last; all by default.
    They are the first of a fixed permutation, so that fewer are always some of more.
    `max_objects`: how many objects a target lists at most, see MaxObjects.
    `gradient_checkpointing`: less memory, more time, the same gradients. `groups`: see Group; the first that matches
    counts. `precision`: bf16 is autocast; auto is bf16 on a GPU and fp32 elsewhere.

    The learning rate is constant after `warm_up` steps, so that every step of `eval_at` is a fair place to
    stop. The last step is always evaluated.
    """

    targets: Annotated[str, Field(pattern=PATTERN)] = "canonical"
    batching: Batching = "shuffled"
    collision_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    steps: Positive = 240
    batch_size: Positive = 16
    micro_batch: Positive | None = None
    micro_tokens: Positive | None = None
    lr: Annotated[float, Field(gt=0)] = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warm_up: Annotated[int, Field(ge=0)] = 10
    clip: Annotated[float, Field(gt=0)] = 1.0
    loss_weights: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    log_every: Positive = 20
    eval_at: tuple[Positive, ...] = ()
    eval_images: Positive | None = None
    max_objects: MaxObjects | None = None
    probe: Probe | None = None
    gradient_checkpointing: bool = False
    groups: tuple[Group, ...] = ()
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @property
    def described(self) -> dict[str, Any]:
        """As a record has it, and as cells are told apart. What came later is left out where it is at its default, so
        that the cells of earlier code stay the same."""
        later = {name for name in LATER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=later)

    @field_validator("loss_weights")
    @classmethod
    def _kinds_of_tokens(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        if wrong := [unknown("kind of token", kind, KINDS) for kind in weights if kind not in KINDS]:
            raise ValueError("; ".join(wrong))
        return weights

    @model_validator(mode="after")
    def _evaluations_in_range(self) -> Train:
        late = [step for step in self.eval_at if step > self.steps]
        if late:
            raise ValueError(f"eval_at: expected steps up to {self.steps}, got {late}")
        return self

    @model_validator(mode="after")
    def _batches_can_be_made(self) -> Train:
        if self.micro_batch is not None and self.micro_tokens is not None:
            raise ValueError("micro_tokens: expected without micro_batch, of which it takes the place")
        if (self.batching == "collision") != (self.collision_rate is not None):
            raise ValueError("collision_rate: expected with batching: collision, and only there")
        if self.batching == "grouped" and self.members == 1:
            raise ValueError(f"batching: grouped needs targets: all(n), got {self.targets}")
        if self.batching == "grouped" and self.batch_size % self.members:
            raise ValueError(f"batch_size: expected a multiple of {self.targets}'s n, got {self.batch_size}")
        return self

    @property
    def members(self) -> int:
        """How many target sequences an image has in an epoch."""
        return members_per_image(self.targets)

    @property
    def set_size(self) -> int:
        """Different targets of one image that share a batch by design, 1 if it is left to chance."""
        if self.targets == "canonical" or self.batching == "shuffled":
            return 1
        return self.members if self.batching == "grouped" else 2 if self.collision_rate else 1

    @property
    def evaluations(self) -> tuple[int, ...]:
        """The steps that are evaluated; the last one always is."""
        return tuple(sorted({*self.eval_at, self.steps}))

    @property
    def probes(self) -> tuple[int, ...]:
        """Steps after which the probe set is looked at; the last one always is. Empty without a probe."""
        return () if self.probe is None else tuple(sorted({*range(0, self.steps + 1, self.probe.every), self.steps}))


class SampleSettings(StrictModel):
    """K samples per image beside the greedy answer, at `temperature`. At each of `temperatures` the model of the last
    step is sampled too, with the same random numbers: curves of recall, precision and diversity. `precision`: of all
    that is asked of a model outside training (answers, scores, held-out loss, probe); auto is as in training."""

    samples: Annotated[int, Field(ge=2, le=1000)] = 8
    temperature: Annotated[float, Field(gt=0)] = 1.0
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = ()
    max_tokens: Positive = 64
    batch_images: Positive = 32
    grammar: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @property
    def described(self) -> dict[str, Any]:
        """As a record has it, and as cells are told apart; like `Train.described` without what came later."""
        return self.model_dump(mode="json", exclude={"precision"} if self.precision == "auto" else None)

    @property
    def curve(self) -> tuple[float, ...]:
        """Every temperature that the last step is sampled at, ascending."""
        return tuple(sorted({self.temperature, *self.temperatures}))


class Prompt(StrictModel):
    """`kind`: open asks for everything; categories asks about the categories of an image that were verified to be there
    or not, `chunk` at a time, by their first names, and an answer is what is said to all these questions (see
    harness.sequence.prompts). `negatives`: at most so many absent categories of an image are asked about in training,
    drawn from the seed; all by default. `evaluate`: whether validation images are asked about all of the benchmark's
    categories instead, as where nothing is known of a picture; official figures count the verified ones alone.
    """

    kind: Literal["open", "categories"] = "open"
    chunk: Positive | None = None
    negatives: Annotated[int, Field(ge=0)] | None = None
    evaluate: Literal["verified", "all"] = "verified"

    @model_validator(mode="after")
    def _settings_of_the_kind(self) -> Prompt:
        if (self.kind == "categories") != (self.chunk is not None):
            raise ValueError("chunk: expected with kind: categories, and only there")
        if self.kind == "open" and (self.negatives, self.evaluate) != (None, "verified"):
            raise ValueError("negatives, evaluate: expected with kind: categories, and only there")
        return self

    @property
    def described(self) -> dict[str, Any] | None:
        """As a record has it; None for the open prompt, so that the cells of earlier code stay the same."""
        return None if self.kind == "open" else self.model_dump(mode="json")


class Resources(StrictModel):
    """What a cell gets of a Ray cluster (see harness.run.executors.ray_cluster): whole CPUs, and whole GPUs or a share
    of one."""

    cpus: Positive = 1
    gpus: Annotated[float, Field(ge=0)] = 0

    @field_validator("gpus")
    @classmethod
    def _whole_or_shared(cls, gpus: float) -> float:
        if gpus > 1 and gpus % 1:
            raise ValueError(f"expected a whole number of GPUs or a share of one, got {gpus:g}")
        return gpus


class EarlyStop(StrictModel):
    """A row made of `objective`'s cells where their path along training, from the base on, has the AP of the row
    `at_ap_of`, seed by seed: what less training alone gives. (Of suites from before `at: equal_AP`, which does this for
    one hypothesis.)"""

    label: Label
    objective: str
    at_ap_of: str


class Resampled(StrictModel):
    """A row made of `objective`'s cells, sampled at another of `sample.temperatures`."""

    label: Label
    objective: str
    temperature: float


class Hypothesis(StrictModel):
    """What the suite expects before it runs: that metric(a) - metric(b) lies beyond `margin`. With `at: equal_AP` b is
    read off its path along training where it has the AP of a (see harness.report.paths)."""

    id: str
    claim: str
    metric: str
    a: str
    b: str
    at: Literal["equal_AP"] | None = None
    direction: Literal["greater", "less"] = "greater"
    margin: float = 0.0


class Suite(StrictModel):
    """Every cell is a (model, objective, seed). `keep`: the fine-tuned weights of the last step, of all evaluated
    steps, or none; it changes no result, so it is not part of a cell's digest. `images`: what becomes of a picture that
    cannot be read, or is not of the size that its annotations say: `fail` fails the cell that reads it, `skip` leaves
    it out of its split, and those that were left out are part of the digest (see harness.run.task). `val_ids`: a file
    of image ids, separated by white space or commas: the validation split is these images alone, and which ones they
    are is part of the digest. `resources` are no part of it. `task`: what sequences are: the objects' names and boxes,
    a caption that mentions the objects, or a caption and then the boxes of what it mentions (see
    harness.sequence.captions and harness.run.task)."""

    suite: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    benchmark: NamedBenchmark
    models: Annotated[tuple[NamedModel, ...], Field(min_length=1)]
    objectives: tuple[NamedObjective, ...] = ()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    train: Train = Train()
    task: Task = "boxes"
    prompt: Prompt = Prompt()
    sample: SampleSettings = SampleSettings()
    score: Literal["category", "name", "sequence", "constant"] = "category"
    keep: Literal["all", "last", "none"] = "last"
    images: Literal["fail", "skip"] = "fail"
    val_ids: Path | None = None
    resources: Resources = Resources()
    tune: Tune | None = None
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

    def plans_of(self, objective: NamedObjective) -> tuple[Train, ...]:
        """The same of each of its stages, in order; each counts its own steps."""
        first, then = self.train_of(objective), objective.then
        if then is None:
            return (first,)
        return first, Train.model_validate({**first.model_dump(), **then.planned})

    def described(self, objective: NamedObjective) -> dict[str, Any]:
        """How a row is trained, as a record has it. DataError where its stage names a file that cannot be read."""
        then = {} if objective.then is None else {"then": objective.then.described}
        return {**self.train_of(objective).described, **then}
