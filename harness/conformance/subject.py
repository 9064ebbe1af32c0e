"""Holds the checked class and the small data that every check works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from harness import registry
from harness.inference.device import base_of
from harness.inference.padding import target_batch
from harness.protocols import Adapter, Predictor
from harness.sequence import Codec
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.checkpoints import digest
from harness.training.finetuning import FineTuning
from harness.training.loop import train
from harness.training.objective import prepare
from harness.training.stage import Work
from harness.types import IGNORED_LABEL, Category, Example

SHAPES = {"domain": "plain", "train_images": 24, "val_images": 4, "calibration_images": 0}
STEPS, RATE = 60, 1e-3
MORE_STEPS = 3
"""Factor by which training is extended for a model that has not learnt yet: low-rank changes of a random language
model, whose rows for the words of names stay fixed, need 60 to 70 steps."""
FALL = 0.6
"""The share of its first value to which the loss must fall. A model that is not trained starts near the logarithm of
the vocabulary's size (5.1 nats for 160 entries). One that learns only which kind of token comes when, and guesses
uniformly among names and bins, stays at 0.7 of that: (ln 90 + 4 ln 65) / 6 = 3.5 nats. Memorising four sequences
brings the loss to a tenth and below."""
MAX_TOKENS = 32
"""Room for six objects whose names are one token each; a model that is not trained rarely ends before."""


class ContractError(Exception):
    """A check has failed: expected behaviour, actual behaviour, and what to do."""


class NotApplicableError(Exception):
    """A check does not apply, for the given reason."""


def require(held: bool, message: str) -> None:
    if not held:
        raise ContractError(message)


@dataclass(frozen=True)
class Training:
    """A fine-tuned adapter in eval mode. `losses`: of every step. `changed`: parameters that have changed;
    `trainable`: those that require a gradient."""

    adapter: Adapter
    losses: list[float]
    trainable: frozenset[str]
    frozen: frozenset[str]
    changed: frozenset[str]

    @property
    def learnt(self) -> bool:
        """Tells whether the loss has fallen far enough."""
        return self.losses[-1] <= FALL * self.losses[0]


@dataclass
class Subject:
    """A predictor's class and settings. Expensive values are made once; code that changes weights takes a `fresh`
    one."""

    made_by: type[Any]
    settings: Mapping[str, Any]
    accelerator: Accelerator
    folder: Path
    """A folder to write into."""
    tried: list[str] = field(default_factory=list)
    """Addresses that the class tried to reach on the network during the checks."""

    def __post_init__(self) -> None:
        benchmark = registry.benchmark("shapes", SHAPES, None)
        self.categories: tuple[Category, ...] = benchmark.categories
        self.examples: tuple[Example, ...] = benchmark.split("train")

    def fresh(self, categories: Sequence[Category] | None = None) -> Predictor:
        """Makes the base in eval mode, always with the same weights; for the shapes unless other categories are
        given."""
        chosen = self.categories if categories is None else categories
        made = base_of(lambda: self.made_by(chosen, self.settings), self.accelerator)
        if isinstance(made, Adapter):
            made.model.eval()
        return made

    @cached_property
    def predictor(self) -> Predictor:
        return self.fresh()

    @property
    def codec(self) -> Codec:
        return self.predictor.codec

    @property
    def adapter(self) -> Adapter:
        """Returns the predictor. NotApplicableError if it cannot be trained."""
        return as_adapter(self.predictor)

    @property
    def is_adapter(self) -> bool:
        return isinstance(self.predictor, Adapter)

    @cached_property
    def few(self) -> list[Example]:
        """Returns four pictures of one or two objects that differ in their canonical targets."""
        small = [example for example in self.examples if len(example.instances) <= 2]
        return list({self.target(example): example for example in small}.values())[:4]

    def target(self, example: Example) -> tuple[int, ...]:
        return target(example, self.codec, "canonical")

    @cached_property
    def short_and_long(self) -> tuple[Example, Example]:
        """Returns the pictures with the shortest and the longest target."""
        ordered = sorted(self.examples, key=lambda example: len(self.target(example)))
        return ordered[0], ordered[-1]

    @property
    def tolerance(self) -> float:
        """Returns how far two ways to compute a log-probability may be `apart` because of rounding."""
        exact = next(self.adapter.model.parameters()).dtype == torch.float32 and self.accelerator.device.type == "cpu"
        return 1e-4 if exact else 5e-2

    @cached_property
    def _trained(self) -> Training | Exception:
        try:
            first = self._train(STEPS)
            return first if first.learnt else self._train(MORE_STEPS * STEPS)
        except NotApplicableError:
            raise
        except Exception as error:
            return error

    def train(self) -> Training:
        """Fine-tunes a fresh base on four pictures with cross-entropy, and once more for longer where that was not
        enough; raises what training raises."""
        if isinstance(self._trained, Exception):
            raise self._trained
        return self._trained

    @property
    def trained(self) -> Training:
        """Returns the same for other checks: NotApplicableError if training fails."""
        if isinstance(self._trained, Exception):
            raise NotApplicableError("training fails, see `overfits`")
        return self._trained

    def _train(self, steps: int) -> Training:
        adapter = as_adapter(self.fresh())
        named = dict(adapter.model.named_parameters())
        trainable = frozenset(name for name, parameter in named.items() if parameter.requires_grad)
        if not trainable:
            raise NotApplicableError("no parameter requires a gradient, see `trains`")
        before = {name: digest(parameter) for name, parameter in named.items()}
        plan = Train(steps=steps, batch_size=len(self.few), lr=RATE, warm_up=10, log_every=1)
        objective = prepare("ce", {}, adapter, (), plan, seed=0)
        curve = train(Work(adapter, self.few, 0, self.accelerator), [FineTuning(objective, plan)])
        adapter.model.eval()
        changed = frozenset(name for name, parameter in named.items() if digest(parameter) != before[name])
        return Training(adapter, [row["loss"] for row in curve], trainable, frozenset(named) - trainable, changed)


def as_adapter(predictor: Predictor) -> Adapter:
    if not isinstance(predictor, Adapter):
        raise NotApplicableError("not an Adapter: it has no logits")
    return predictor


def target_log_probs(
    adapter: Adapter, examples: Sequence[Example], targets: Sequence[Sequence[int]], device: torch.device
) -> list[Tensor]:
    """Computes log-probabilities with teacher forcing, all rows in one padded batch: for each row [tokens, V] at the
    positions of its target tokens, on the CPU in float32. Each example has the same number of neighbouring targets."""
    each = len(targets) // len(examples)
    prompts = [adapter.codec.prompt(example) for example in examples for _ in range(each)]
    batch = target_batch(targets, adapter.codec, prompts)
    with torch.inference_mode():
        pixels = adapter.pixels(examples).to(device)
        log_probs = adapter.logits(pixels, batch.inputs.to(device)).float().log_softmax(-1).cpu()
    scored = batch.labels != IGNORED_LABEL
    return [log_probs[row, scored[row]] for row in range(len(targets))]


def apart(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest difference of log-probabilities: in nats, but relative to the number where it is larger
    than one (float32 rounds large numbers by more)."""
    return float(((actual - expected).abs() / expected.abs().clamp(min=1)).max())
