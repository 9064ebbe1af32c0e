"""`detmodes.objective` and `detmodes.loss`: the training objectives for a loop of one's own, and for the Trainer of
transformers.

Shape legend: B rows of a batch, L tokens of a row, N target positions, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness import objectives
from harness.api.reference import FrozenReference, asked
from harness.errors import ConfigError, ObjectiveError
from harness.objectives import LossFunction, ReadyObjective
from harness.objectives.calibration import top_k_mass
from harness.types import IGNORED_LABEL, TokenBatch

if TYPE_CHECKING:
    from transformers import TrainerCallback

SUPPLIED: frozenset[objectives.Need] = frozenset({"calibration"})
"""What a TrainerLoss can give an objective beside logits and labels."""
WHY_NOT: dict[objectives.Need, str] = {
    "sets": "which targets of a batch are of one image",
    "experts": "prompts that end with the token of an expert",
    "samples": "samples that the model draws in training",
}
BY_REFERENCE: frozenset[objectives.Need] = frozenset({"reference", "reference_logits"})
"""What it can give where there is a reference model."""


def objective(name: str, **settings: Any) -> LossFunction:
    """Returns an objective as a pure function of a `TokenBatch`, which gives a `LossOutput` (its `mean()` is the loss).

    Args:
        name: as `detmodes list objectives` has it.
        settings: as a suite file has them.

    Raises:
        ConfigError: for an unknown name, and for every wrong setting. ObjectiveError: for SED-SFT with a `quantile`,
            which is no threshold before it is calibrated.
    """
    return objectives.build(name, **settings)


def loss(name: str, *, reference: nn.Module | None = None, **settings: Any) -> TrainerLoss:
    """Returns an objective as the `compute_loss_func` of transformers' Trainer, or of TRL's SFTTrainer.

    Args:
        name: as `detmodes list objectives` has it; those that compare whole sequences need more than the Trainer gives
            a loss and are refused.
        reference: for SED-SFT with `mask: base` and for `ce_kl`, the frozen model: a copy of the one that is trained,
            as training begins (`copy.deepcopy(model)`). It is asked the same in eval mode without a gradient, and takes
            its room in memory. Needs `callbacks=[loss.guard()]`.
        settings: as a suite file has them.

    Raises:
        ConfigError: for an unknown name, for every wrong setting, and for an objective that cannot be honoured here.
    """
    ready = objectives.ready(name, settings)
    if ready.needs & BY_REFERENCE and reference is None:
        raise ConfigError(f"{name} asks a frozen model: expected reference=copy.deepcopy(model), made before training")
    if reference is not None and not ready.needs & BY_REFERENCE:
        raise ConfigError(f"{name} asks no frozen model under these settings: leave reference out")
    if lacking := sorted(ready.needs - SUPPLIED - BY_REFERENCE):
        needed = " and ".join(WHY_NOT[need] for need in lacking)
        raise ConfigError(f"{name} needs {needed}, which the Trainer does not give a loss; run it with detmodes run")
    return TrainerLoss(ready, None if reference is None else FrozenReference(reference))


class TrainerLoss:
    """A loss over the target tokens of a causal language model, as `Trainer(compute_loss_func=...)` calls it.

    The logits at a place predict the token after it. Labels of -100 are no targets. The sum over the targets of a
    micro-batch is divided by the number of targets of the whole batch, over all its micro-batches and processes
    (`num_items_in_batch`), so the gradient does not depend on how a batch is split.

    Whatever would compute another loss than this one raises ObjectiveError: outputs without logits (a fused kernel), an
    auxiliary loss that would be left out, several GPUs in one process.
    """

    def __init__(self, ready: ReadyObjective, reference: FrozenReference | None = None) -> None:
        self._ready = ready
        self._reference = reference
        self._loss = None if "calibration" in ready.needs else ready.loss
        self.calls = 0
        """How often it was asked."""

    @property
    def name(self) -> str:
        """Names the objective."""
        return self._ready.name

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the complete settings; after `calibrate` with the threshold in the place of the quantile."""
        return dict(self._ready.settings)

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Computes the loss of a micro-batch, a scalar.

        Args:
            outputs: of the model, with logits [B, L, V].
            labels: [B, L], -100 where there is no target.
            num_items_in_batch: targets of the whole batch; by default those of this micro-batch.
        """
        self.calls += 1
        if self._loss is None:
            raise ObjectiveError(f"{self.name} has no threshold yet: call calibrate(model, batches) before training")
        logits, targets = _aligned(outputs, labels)
        chosen = targets != IGNORED_LABEL
        rows = torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)[chosen]
        batch = TokenBatch(logits[chosen], targets[chosen], rows)
        if self._reference is not None:
            frozen, _ = _aligned(self._reference.outputs(logits.device), labels)
            batch = self._referred(batch, frozen[chosen])
        output = self._loss(batch, False)
        total = torch.stack([term.weight * term.sum for term in output.terms.values()]).sum()
        return total / _number(chosen.sum() if num_items_in_batch is None else num_items_in_batch)

    def _referred(self, batch: TokenBatch, frozen: Tensor) -> TokenBatch:
        """Adds what the reference says: the positions that it selects, or its logits [N, V]."""
        needs = self._ready.needs
        selected = self._ready.selection(frozen) if "reference" in needs else None
        return replace(batch, selected=selected, reference=frozen if "reference_logits" in needs else None)

    def watch(self, model: nn.Module, numbers: torch.dtype | None = None) -> None:
        """Lets the reference, if there is one, know what the trained model is asked, until `release`; `guard` does it
        when training begins.

        Args:
            numbers: of automatic mixed precision; None without.
        """
        if self._reference is not None:
            self._reference.watch(model, numbers)

    def release(self) -> None:
        """Takes the hook of `watch` off the trained model."""
        if self._reference is not None:
            self._reference.release()

    def calibrate(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> float:
        """Finds SED-SFT's threshold: the `quantile` of the model's top-k masses over the targets of held-out batches.

        The model is the one that training begins with. It is asked in eval mode without a gradient, and left as it was.

        Args:
            batches: as the Trainer gives them to the model, with `labels`: `trainer.get_eval_dataloader(heldout)`.

        Returns:
            The threshold.

        Raises:
            ConfigError: where the objective has no quantile, or there are fewer than `calibration_examples` rows.
        """
        settings = self._ready.settings
        if "quantile" not in settings:
            raise ConfigError(f"{self.name}: has no quantile to calibrate, only {settings}")
        wanted = settings.get("calibration_examples")
        top_k = settings.get("calibration_top_k", settings["top_k"])
        everywhere = settings.get("calibration_positions") == "all"
        masses, rows = [], 0
        with asked(model):
            for batch in _rows_of(batches, wanted):
                rows += len(batch["labels"])
                masses.append(_masses(model, batch, top_k, everywhere).cpu())
        if wanted is not None and rows < wanted:
            raise ConfigError(f"{self.name}: calibration_examples: expected at most the {rows} given, got {wanted}")
        self._ready = self._ready.calibrated(torch.cat(masses) if masses else torch.empty(0))
        self._loss = self._ready.loss
        threshold: float = self._ready.settings["threshold"]
        return threshold

    def guard(self) -> TrainerCallback:
        """Returns a callback that stops training where the Trainer would step without asking this loss.

        Some ways to train compute the model's own loss whatever `compute_loss_func` says (sequence parallelism), others
        change what this one is given. `Trainer(..., compute_loss_func=loss, callbacks=[loss.guard()])`.
        """
        from harness.api.trainer_guard import Guard

        return Guard(self)


def _aligned(outputs: Any, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns logits [B, l, V] and what they predict [B, l]: the token after each place; of a model with an encoder,
    whose decoder reads the targets shifted already, the token at each place."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if logits is None and isinstance(outputs, tuple):
        logits = outputs[0]
    if labels is None:
        raise ObjectiveError("the batch has no labels: there is nothing to train on")
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise ObjectiveError(
            "the model's output has no logits [B, L, V]: a fused kernel (use_liger_kernel) computes its own loss; "
            "switch it off"
        )
    if getattr(outputs, "aux_loss", None) is not None:
        raise ObjectiveError(
            "the model has an auxiliary loss, which would be left out; set output_router_logits=False in its config"
        )
    if logits.shape[:2] != labels.shape:
        raise ObjectiveError(f"expected a label for each place of {list(logits.shape[:2])}, got {list(labels.shape)}")
    if getattr(outputs, "encoder_last_hidden_state", None) is not None:
        return logits, labels
    return logits[:, :-1], labels[:, 1:]


def _number(items: Tensor | int) -> Tensor | int:
    """Returns the number to divide by; 1 where there are no targets, whose sum is 0."""
    if isinstance(items, Tensor):
        if items.numel() != 1:
            raise ObjectiveError(
                "several GPUs in one process (torch.nn.DataParallel): the Trainer scales such a loss wrongly; start it "
                "with torchrun, or make one GPU visible"
            )
        return items.reshape(()).clamp(min=1)
    return max(items, 1)


# ---- calibration -----------------------------------------------------------------------------------------------------


def _rows_of(batches: Iterable[Mapping[str, Any]], wanted: int | None) -> Iterator[Mapping[str, Any]]:
    """Yields the batches, up to so many rows."""
    left = wanted
    for batch in batches:
        if left is None:
            yield batch
            continue
        size = len(batch["labels"])
        yield batch if size <= left else {key: value[:left] for key, value in batch.items()}
        left -= min(size, left)
        if not left:
            return


def _masses(model: nn.Module, batch: Mapping[str, Any], top_k: int, everywhere: bool) -> Tensor:
    """Returns the top-k masses [N] wherever the model predicts a target; `everywhere`: or a token of the prompt."""
    device = next(model.parameters()).device
    given = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    labels = given.pop("labels")
    outputs = model(**given)
    logits, targets = _aligned(outputs, labels)
    chosen = targets != IGNORED_LABEL
    if everywhere:
        mask = given.get("attention_mask")
        chosen |= torch.ones_like(chosen) if mask is None else mask[:, 1:].bool()
    return top_k_mass(logits[chosen], top_k)
