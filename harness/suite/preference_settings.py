"""What a suite may say of stages that learn from sequences of which some are to become likelier than others.

Their losses stand in harness.objectives.preference, what they learn from in harness.training.stages.preference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.errors import DataError
from harness.suite.stage_base import Amount, NotNegative, Positive, Sampling, Share
from harness.system.files import sha256


class Preference(Sampling):
    """Of stages that learn from pairs of sequences: of an image, the chosen one is to become likelier than the rejected
    one (the loss of DPO: Rafailov et al., NeurIPS 2023; arXiv 2305.18290).

    The pairs are made once, when the stage begins, from the model's own samples; they become the cell's pairs.parquet
    (harness.training.stages.pairs). Every epoch is a permutation of them."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate, constant after the warm-up."""
    batch_size: Positive = 16
    """Pairs of a step."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held to what it is when the stage begins."""
    pairs: Path | None = None
    """The pairs.parquet of another cell to learn from; then nothing is drawn."""

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


class PairPreference(Preference):
    """Of stages whose loss is about one pair at a time."""

    normalise: bool = False
    """Whether log-probabilities are means over a sequence's tokens, not sums."""
    sft_weight: NotNegative = 0.0
    """Weight of the cross-entropy of the chosen sequences, each a mean over its tokens."""

    @property
    def entropy_weight(self) -> float:
        """What the model's own log-probabilities are multiplied with; DPO has no weight of its own for them."""
        return self.beta


class Dpo(PairPreference):
    """The chosen sequence is a target of the image (`train.targets`), the rejected ones are the samples of lowest
    reward, as far as they are worse than it."""

    equation: ClassVar[str] = "-log sigmoid(beta * (log p(chosen)/ref(chosen) - log p(rejected)/ref(rejected)))"
    source: ClassVar[str] = "Rafailov et al., NeurIPS 2023; arXiv 2305.18290"
    name: Literal["dpo"]
    pairs_per_image: Positive = 1
    """Pairs that an image gives."""


class Spl(PairPreference):
    """Soft preference learning (Slocum, Parker-Sartori and Hadfield-Menell, ICLR 2025; arXiv 2511.08594): the pairs of
    `dpo`, with the model's entropy weighted by `alpha` and its cross-entropy to the reference by `beta`. With both
    equal it is `dpo`; the default is twice as much entropy, one of the ratios that the paper tries (1 to 11)."""

    equation: ClassVar[str] = (
        "-log sigmoid(alpha * log p(chosen)/p(rejected) - beta * log ref(chosen)/ref(rejected)); dpo where alpha = beta"
    )
    source: ClassVar[str] = "Slocum et al., ICLR 2025; arXiv 2511.08594"
    name: Literal["spl"]
    alpha: Annotated[float, Field(gt=0)] = 0.2
    """Weight of the model's entropy."""
    pairs_per_image: Positive = 1
    """Pairs that an image gives."""

    @property
    def entropy_weight(self) -> float:
        return self.alpha


class Divpo(PairPreference):
    """Diverse preference optimisation (Lanchantin et al., 2025; arXiv 2501.18101): chosen is the rarest of an image's
    good samples, rejected the most common of its bad ones.
    How common a sample is: how many of the image's samples list the same names in the same order.
    """

    equation: ClassVar[str] = "that of dpo, the rarest good sample over the most common bad one"
    source: ClassVar[str] = "Lanchantin et al., 2025; arXiv 2501.18101"
    name: Literal["divpo"]
    good: Share = 0.8
    """Reward from which on a sample is good."""
    bad: Share = 0.5
    """Reward up to which a sample is bad."""

    @model_validator(mode="after")
    def _apart(self) -> Divpo:
        if self.bad >= self.good:
            raise ValueError(f"bad: expected less than good: {self.good:g}, got {self.bad:g}")
        return self


class Gepo(Preference):
    """Group equivalent preference optimisation (Wu et al., NeurIPS 2025; arXiv 2505.12723): of an image, a group of
    winners is to become likelier than a group of losers, and the winners equally much likelier.

    Winners are up to `group` different members of the image's equivalence set, drawn at random whatever `train.targets`
    says (with canonical ones there would be one, and nothing to equalise); losers are as many of its samples, those of
    lowest reward, as far as they are worse. Each winner stands beside its loser in the cell's pairs.parquet; an image's
    pairs are its group."""

    equation: ClassVar[str] = (
        "-log sigmoid(beta * (mean of r over winners - mean of r over losers)) + weight * variance of r over winners, "
        "r = log p/ref"
    )
    source: ClassVar[str] = "Wu et al., NeurIPS 2025; arXiv 2505.12723"
    name: Literal["gepo"]
    batch_size: Positive = 8
    """Groups of a step."""
    group: Annotated[int, Field(ge=2)] = 3
    """Winners, and losers, of an image at most."""
    weight: NotNegative = 1.0
    """Weight of the variance among the winners; the paper's lambda."""

    @property
    def amount(self) -> Amount:
        drawn, trained = super().amount
        return Amount(drawn, trained * self.group)
