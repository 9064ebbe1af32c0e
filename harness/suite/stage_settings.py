"""What a suite may say of the stage that follows fine-tuning in a cell (`then:` of an objective's row).

What all stages have stands in harness.suite.stage_base, those that learn preferences in
harness.suite.preference_settings. To add a stage, write its settings here and name them in AnyStage, write what it
trains on (harness.training.stage.Stage) beside harness.training.stages.grpo, and give it its line in
harness.training.stages.kinds. Another package brings one by the entry-point group `detmodes.stages`: a class of
settings whose `make` makes the stage (see StageSettings).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)

from harness import objectives
from harness.extensions import Extended
from harness.sequence.targets import PATTERN
from harness.suite.preference_settings import Divpo, Dpo, Gepo, Spl
from harness.suite.stage_base import Amount, Batching, NotNegative, Positive, Sampling, Share, StageSettings
from harness.system.strict import StrictModel


class Prefilter(StrictModel):
    """`prefilter` of GRPO: before it begins, the cell's base draws `samples` sequences of every training image; those
    of which all or none have a reward of at least `success` are left out (see harness.training.stages.prompts). The
    record counts them."""

    samples: Annotated[int, Field(ge=2, le=1000)] = 8
    """Sequences that the base draws of a training image."""
    success: Share = 0.5
    """Reward from which on a sequence counts as right."""


class Grpo(Sampling):
    """Group-relative policy optimisation (Shao et al., 2024; arXiv 2402.03300), on the model's own samples.

    Every step draws anew. The loss is a mean over all tokens of its samples."""

    equation: ClassVar[str] = (
        "-min(ratio * A, clip(ratio, 1 - low, 1 + high) * A) + kl * KL(p || ref), A = (reward - mean) / deviation"
    )
    source: ClassVar[str] = "Shao et al., 2024; arXiv 2402.03300; bounds apart: Yu et al., 2025; arXiv 2503.14476"
    per_step: ClassVar[str] = "images"
    LATER: ClassVar[frozenset[str]] = frozenset({"prefilter", "diversity"})
    name: Literal["grpo"]
    images: Positive = 16
    """Training images of a step."""
    updates: Positive = 1
    """Optimizer steps that are made of a step's images."""
    filter: bool = False
    """Whether images whose samples all have the same reward, which teach nothing, leave the mean."""
    low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far a token's probability ratio may fall below 1 before it is clipped."""
    high: Annotated[float, Field(gt=0)] = 0.28
    """How far it may rise above 1."""
    kl: NotNegative = 0.0
    """Weight of the divergence from the fine-tuned model, which is in memory only where this is not 0."""
    diversity: NotNegative = 0.0
    """Weight at which what a sample adds to the others of its image, a factor of the determinant of their kernel (after
    Parker-Holder et al., NeurIPS 2020; arXiv 2002.00632), is added to its reward."""
    prefilter: Prefilter | None = None
    """Leaves out training images that the base always or never gets right."""

    @model_validator(mode="after")
    def _possible(self) -> Grpo:
        if self.updates > self.images:
            raise ValueError(f"updates: expected at most the {self.images} images of a step, got {self.updates}")
        return self

    @property
    def amount(self) -> Amount:
        return Amount(*[self.steps * self.images * self.samples] * 2)


class Nsft(Sampling):
    """Negative supervised fine-tuning (Zhu et al., CVPR 2025; arXiv 2411.14797): fine-tuning goes on, on targets (as
    `train.targets` has them) and on corrections of the model's own errors.

    The corrections are made once, when the stage begins, from the `rejected_per_image` samples of lowest reward that
    have an error; they become the cell's corrections.parquet. A step takes `batch_size` of the sampled images, every
    epoch a permutation, and with each its target and some of its corrections, which take turns at random. Targets and
    corrections are each a mean over their tokens."""

    equation: ClassVar[str] = (
        "mean over targets of -log p_y + kl * KL(p || ref), and negative times the same over corrections"
    )
    source: ClassVar[str] = "Zhu et al., CVPR 2025; arXiv 2411.14797"
    name: Literal["nsft"]
    batch_size: Positive = 16
    """Sampled images of a step."""
    rejected_per_image: Positive = 1
    """Samples of an image that are corrected."""
    corrections: Positive = 2
    """Corrections of an image in a step."""
    corrector: str = "templates"
    """What makes the corrections (harness.training.stages.corrections)."""
    negative: NotNegative = 1.0
    """Weight of the corrections."""
    kl: NotNegative = 0.0
    """Weight of the divergence from the model as the stage begins, at all these tokens; that model is in memory only
    where this is not 0."""

    @property
    def amount(self) -> Amount:
        return Amount(self.images * self.samples, self.steps * self.batch_size * (1 + self.corrections))


class Sft(StageSettings):
    """Fine-tuning goes on, with any objective of `objectives:`, in batches that are not those of the first stage.

    Where an objective has a reference, as sed_sft with mask: base, it is the model as the stage
    begins; a quantile, which is told before any training, is refused.
    """

    equation: ClassVar[str] = "that of its objective"
    source: ClassVar[str] = "continued fine-tuning"
    name: Literal["sft"]
    batch_size: Positive = 16
    """Sequences of a step."""
    objective: Annotated[Mapping[str, Any], BeforeValidator(lambda value: _by_name(value))] = {"name": "ce"}
    """An objective by name, with its settings."""
    targets: Annotated[str, Field(pattern=PATTERN)] | None = None
    """As in `train`; by default what is said there."""
    batching: Batching = "shuffled"
    """As in `train`."""
    collision_rate: Share | None = None
    """As in `train`."""

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


AnyStage = Grpo | Dpo | Divpo | Spl | Gepo | Nsft | Sft
OURS: dict[str, type[StageSettings]] = {
    get_args(kind.model_fields["name"].annotation)[0]: kind for kind in get_args(AnyStage)
}


def _is_stage(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, StageSettings) and callable(getattr(part, "make", None))


STAGES = Extended("stage", OURS, _is_stage)


def _read_stage(value: Any, read_ours: Callable[[Any], StageSettings]) -> StageSettings:
    """Writes a bare name out, checks it, and reads the settings by the class of that name. ValueError for a name that
    cannot be used."""
    value = _by_name(value)
    if not isinstance(value, Mapping):
        return value if isinstance(value, StageSettings) else read_ours(value)
    name = str(value.get("name"))
    if wrong := STAGES.problems(name):
        raise ValueError("; ".join(wrong))
    if STAGES.point(name) is None:
        return read_ours(value)
    with STAGES.blaming(name, "reading its settings"):
        try:
            return STAGES[name].model_validate(dict(value))
        except ValidationError as error:  # mistakes of who wrote the suite, not of the package
            mistakes = error
    raise mistakes


Then = Annotated[SerializeAsAny[Annotated[AnyStage, Field(discriminator="name")]], WrapValidator(_read_stage)]
"""`then:` of a row."""
