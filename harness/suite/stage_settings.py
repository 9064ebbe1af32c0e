"""What a suite may say of the stage that follows fine-tuning in a cell (`then:` of an objective's row).

To add a stage, write its settings here and name them in AnyStage, write what it trains on
(harness.training.stage.Stage) beside harness.training.stages.grpo, and give it its line in
harness.training.stages.kinds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from harness import objectives
from harness.errors import DataError, unknown
from harness.metrics.samples.reward import REWARDS
from harness.sequence.targets import PATTERN
from harness.system.files import sha256
from harness.system.strict import StrictModel

Batching = Literal["shuffled", "grouped", "collision"]

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
OPTIMISED = ("steps", "lr", "weight_decay", "warm_up", "clip", "log_every", "eval_at")
"""Settings of every stage that mean what they mean in `train`."""


class Amount(NamedTuple):
    """How many sequences a stage takes, in all its steps: drawn from the model, and trained on."""

    drawn: int
    trained: int


class StageSettings(StrictModel):
    """What all stages have. Steps, those of `eval_at` too, are counted from the stage's start; its end is always
    evaluated. What is not said here is as in `train`, but for what ends with it: its batching and `train.groups`."""

    per_step: ClassVar[str] = "batch_size"
    """The setting that says what a step takes; several processes share it evenly."""
    name: str
    steps: Positive = 60
    lr: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: NotNegative = 0.0
    warm_up: Annotated[int, Field(ge=0)] = 5
    clip: Annotated[float, Field(gt=0)] = 1.0
    log_every: Positive = 5
    eval_at: tuple[Positive, ...] = ()

    @model_validator(mode="after")
    def _evaluations_in_range(self) -> StageSettings:
        if late := [step for step in self.eval_at if step > self.steps]:
            raise ValueError(f"eval_at: expected steps up to {self.steps} of this stage, got {late}")
        return self

    @property
    def batch(self) -> int:
        """How much a step takes, in units that stay whole: images, sequences or pairs."""
        size: int = getattr(self, self.per_step)
        return size

    @property
    def planned(self) -> dict[str, Any]:
        """The settings that this stage has otherwise than `train`, by their names there."""
        ends = {"batching": "shuffled", "collision_rate": None, "groups": ()}
        return {**ends, **self.model_dump(include={*OPTIMISED}), "batch_size": self.batch}

    @property
    @abstractmethod
    def amount(self) -> Amount: ...

    @property
    def described(self) -> dict[str, Any]:
        """As a record has it, and as cells are told apart. DataError where a file that is named cannot be read."""
        return self.model_dump(mode="json")


class Sampling(StageSettings):
    """Of stages that draw `samples` sequences of each of `images` training images at `temperature`, and pay each its
    `reward`."""

    images: Positive = 64
    samples: Annotated[int, Field(ge=2, le=1000)] = 8
    temperature: Annotated[float, Field(gt=0)] = 1.0
    reward: str = "detection"

    @field_validator("reward")
    @classmethod
    def _known(cls, reward: str) -> str:
        if reward not in REWARDS:
            raise ValueError(unknown("reward", reward, REWARDS))
        return reward


class Grpo(Sampling):
    """Group-relative policy optimisation (Shao et al., 2024; arXiv 2402.03300), on the model's own samples.

    Every step draws anew, and makes `updates` optimizer steps of its images. The loss is a mean over all their tokens;
    `filter` leaves out images whose samples all have the same reward, which teach nothing (the others then count for
    more). `low`, `high`: how far a token's probability ratio may leave 1 before it is clipped. `kl`: weight of the
    divergence from the fine-tuned model, which is held in memory only where this is not 0.
    """

    per_step: ClassVar[str] = "images"
    name: Literal["grpo"]
    images: Positive = 16
    updates: Positive = 1
    filter: bool = False
    low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    high: Annotated[float, Field(gt=0)] = 0.28
    kl: NotNegative = 0.0

    @model_validator(mode="after")
    def _possible(self) -> Grpo:
        if self.updates > self.images:
            raise ValueError(f"updates: expected at most the {self.images} images of a step, got {self.updates}")
        return self

    @property
    def amount(self) -> Amount:
        return Amount(*[self.steps * self.images * self.samples] * 2)


class Preference(Sampling):
    """Of stages that learn from pairs of sequences: of an image, the chosen one is to become likelier than the rejected
    one (the loss of DPO: Rafailov et al., NeurIPS 2023; arXiv 2305.18290).

    The pairs are made once, when the stage begins, from the model's own samples; they become the cell's pairs.parquet
    (harness.training.stages.pairs). A step takes `batch_size` of them, every epoch a permutation. `beta`: how strongly
    the model is held to what it is when the stage begins. `normalise`: log-probabilities are means over a sequence's
    tokens, not sums. `sft_weight`: of the cross-entropy of the chosen sequences, each a mean over its tokens. `pairs`:
    the pairs.parquet of another cell to learn from; then nothing is drawn.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-5
    batch_size: Positive = 16
    beta: Annotated[float, Field(gt=0)] = 0.1
    normalise: bool = False
    sft_weight: NotNegative = 0.0
    pairs: Path | None = None

    @property
    def amount(self) -> Amount:
        return Amount(0 if self.pairs else self.images * self.samples, 2 * self.steps * self.batch_size)

    @property
    def described(self) -> dict[str, Any]:
        """As of any stage, but with the digest of the file: the pairs are the same wherever it lies."""
        if self.pairs is None:
            return super().described
        try:
            return super().described | {"pairs": sha256(self.pairs)}
        except OSError as error:
            expected = "expected the pairs.parquet of a cell"
            raise DataError(f"then.pairs: {self.pairs}: {expected}: {error.strerror or error}") from None


class Dpo(Preference):
    """The chosen sequence is a target of the image (`train.targets`), the rejected ones are the `pairs_per_image`
    samples of lowest reward, as far as they are worse than it."""

    name: Literal["dpo"]
    pairs_per_image: Positive = 1


class Divpo(Preference):
    """Diverse preference optimisation (Lanchantin et al., 2025; arXiv 2501.18101): chosen is the rarest of an image's
    good samples, rejected the most common of its bad ones. Good: a reward of at least `good`; bad: of at most `bad`.
    How common a sample is: how many of the image's samples list the same names in the same order.
    """

    name: Literal["divpo"]
    good: Share = 0.8
    bad: Share = 0.5

    @model_validator(mode="after")
    def _apart(self) -> Divpo:
        if self.bad >= self.good:
            raise ValueError(f"bad: expected less than good: {self.good:g}, got {self.bad:g}")
        return self


class Nsft(Sampling):
    """Negative supervised fine-tuning (Zhu et al., CVPR 2025; arXiv 2411.14797): fine-tuning goes on, on targets (as
    `train.targets` has them) and on corrections of the model's own errors.

    The corrections are made once, when the stage begins, from the `rejected_per_image` samples of lowest reward that
    have an error; they become the cell's corrections.parquet. A step takes `batch_size` of the sampled images, every
    epoch a permutation, and with each its target and `corrections` of its corrections, which take turns at random.
    `corrector`: what makes them (harness.training.stages.corrections). `negative`: weight of the corrections; targets
    and corrections are each a mean over their tokens. `kl`: weight of the divergence from the model as the stage
    begins, at all these tokens; it is held in memory only where this is not 0.
    """

    name: Literal["nsft"]
    batch_size: Positive = 16
    rejected_per_image: Positive = 1
    corrections: Positive = 2
    corrector: str = "templates"
    negative: NotNegative = 1.0
    kl: NotNegative = 0.0

    @property
    def amount(self) -> Amount:
        return Amount(self.images * self.samples, self.steps * self.batch_size * (1 + self.corrections))


class Sft(StageSettings):
    """Fine-tuning goes on, with any objective of `objectives:`, in batches that are not those of the first stage.

    `targets` and `batching` with its `collision_rate` mean what they mean in `train`; targets are as there by default,
    batches shuffled. Where an objective has a reference, as sed_sft with mask: base, it is the model as the stage
    begins; a quantile, which is told before any training, is refused.
    """

    name: Literal["sft"]
    batch_size: Positive = 16
    objective: Annotated[Mapping[str, Any], BeforeValidator(lambda value: _by_name(value))] = {"name": "ce"}
    targets: Annotated[str, Field(pattern=PATTERN)] | None = None
    batching: Batching = "shuffled"
    collision_rate: Share | None = None

    @field_validator("objective")
    @classmethod
    def _possible(cls, objective: Mapping[str, Any]) -> Mapping[str, Any]:
        name, settings = _split(objective)
        problems = objectives.problems(name, settings)
        if not problems and "calibration" in objectives.ready(name, settings).needs:
            problems = [f"{name}: quantile: expected a threshold in a later stage, whose model is not known beforehand"]
        if problems:
            raise ValueError("; ".join(problems))
        return objective

    @property
    def of(self) -> tuple[str, dict[str, Any]]:
        """The objective's name and its settings."""
        return _split(self.objective)

    @property
    def amount(self) -> Amount:
        samples = objectives.ready(*self.of).settings.get("samples", 0)
        return Amount(0, self.steps * self.batch_size * (1 + samples))

    @property
    def planned(self) -> dict[str, Any]:
        planned_here = {"batching": self.batching, "collision_rate": self.collision_rate}
        return super().planned | planned_here | ({"targets": self.targets} if self.targets else {})

    @property
    def described(self) -> dict[str, Any]:
        ready = objectives.ready(*self.of)
        return super().described | {"objective": {"name": ready.name, **ready.settings}}


def _by_name(value: Any) -> Any:
    """Writes a bare name out: `grpo` is `{name: grpo}`."""
    return {"name": value} if isinstance(value, str) else value


def _split(named: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return str(named.get("name")), {key: value for key, value in named.items() if key != "name"}


AnyStage = Grpo | Dpo | Divpo | Nsft | Sft
STAGES: dict[str, type[StageSettings]] = {
    get_args(kind.model_fields["name"].annotation)[0]: kind for kind in get_args(AnyStage)
}


def _named(value: Any) -> Any:
    """Writes a bare name out and checks it. ValueError for an unknown name."""
    value = _by_name(value)
    if isinstance(value, Mapping) and value.get("name") not in STAGES:
        raise ValueError(unknown("stage", str(value.get("name")), STAGES))
    return value


Then = Annotated[Annotated[AnyStage, Field(discriminator="name")], BeforeValidator(_named)]
"""`then:` of a row."""
