"""A toy language model and its data; its training by our loop and by the Trainer of transformers from equal weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

import detmodes
from harness.inference.device import accelerator_on
from harness.sequence.targets import members
from harness.suite.train_settings import Train
from harness.training.finetuning import FineTuning, batches, rows_of
from harness.training.loop import train
from harness.training.objective import prepare
from harness.training.stage import Work
from harness.types import IGNORED_LABEL, Box, Example
from tests.support import tiny

SETTINGS: dict[str, dict[str, Any]] = {
    "ce": {},
    "label_smoothing": {},
    "sed_sft": {"top_k": 2, "quantile": 0.5, "weight": 5.0},
    "gem": {},
    "dft": {},
    "entropy_bonus": {},
    "eaft": {},
    "focal": {},
    "precision_recall": {},
    "sed_sft base": {"top_k": 2, "quantile": 0.5, "weight": 5.0, "mask": "base"},
    "ce_kl": {"weight": 2.0},
}
"""By objective, and a word that tells two of one apart."""
REFERRED = ("sed_sft base", "ce_kl")
"""Those that ask a frozen model."""
STEPS, BATCH, SEED = 4, 4, 3
CODEC = tiny.codec_of(["sofa", "couch", "sofa_bed"], ["lamp"], ["eye", "iris_ring"], bins=9)
PAD = CODEC.tokens.pad


def plan(micro_batch: int | None = None) -> Train:
    """eps is large, so that an update follows the gradient and does not blow up what is rounding in it."""
    return Train.model_validate(
        {
            "targets": "random",
            "steps": STEPS,
            "batch_size": BATCH,
            "micro_batch": micro_batch,
            "lr": 0.05,
            "weight_decay": 0.0,
            "warm_up": 0,
            "clip": 0.5,
            "log_every": 1,
            "optimizer": {"betas": (0.8, 0.9), "eps": 1e-2},
        }
    )


class LlamaAdapter:
    """harness.protocols.Adapter over a language model that sees no image."""

    def __init__(self) -> None:
        self.codec = CODEC
        self.model = language_model()

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        return torch.zeros(len(examples), 3, 1, 1)

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        del pixels
        made: Tensor = self.model(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits
        return made

    def generate(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def describe(self) -> dict[str, object]:
        return {"name": "llama"}

    def save(self, path: Path) -> None:
        raise NotImplementedError

    def load(self, path: Path) -> None:
        raise NotImplementedError


def language_model() -> LlamaForCausalLM:
    """The same at every call, in double precision where transformers' own code leaves it."""
    torch.manual_seed(0)
    size = CODEC.tokens.size
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=CODEC.tokens.end,
        use_cache=False,
    )
    return LlamaForCausalLM(config).double()


def examples(count: int, first: int = 1) -> list[Example]:
    """Of one to three objects each: rows of different lengths."""
    boxes = [(1, Box(0, 0, 4, 4)), (2, Box(2, 2, 4, 4)), (3, Box(1, 3, 5, 5))]
    return [tiny.example_of(first + i, [boxes[(i + j) % 3] for j in range(1 + i % 3)]) for i in range(count)]


IMAGES, HELDOUT = examples(7), examples(5, first=100)


def labelled(tokens: Sequence[int], example: Example) -> dict[str, list[int]]:
    """As a data set of transformers has it: prompt and target in a row, no label for the prompt."""
    prompt = list(CODEC.prompt(example))
    return {"input_ids": [*prompt, *tokens], "labels": [IGNORED_LABEL] * len(prompt) + list(tokens)}


def collate(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
    """Pads on the right."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, filler: int) -> Tensor:
        return torch.tensor([row[key] + [filler] * (longest - len(row[key])) for row in rows])

    ids = padded("input_ids", PAD)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": padded("labels", IGNORED_LABEL)}


def loss_of(case: str) -> detmodes.TrainerLoss:
    """One of SETTINGS for the Trainer."""
    reference = language_model() if case in REFERRED else None
    return detmodes.loss(case.partition(" ")[0], reference=reference, **SETTINGS[case])


def ours(case: str, micro_batch: int | None = None) -> tuple[LlamaForCausalLM, list[float], Mapping[str, Any]]:
    """What harness.training makes of the model: the model, the loss of each step, the objective's settings."""
    adapter, drawn = LlamaAdapter(), plan(micro_batch)
    objective = prepare(case.partition(" ")[0], SETTINGS[case], LlamaAdapter(), HELDOUT, drawn, SEED)
    work = Work(adapter, IMAGES, SEED, accelerator_on("cpu"))
    curve = train(work, [FineTuning(objective, drawn)])
    return adapter.model, [row["loss"] for row in curve], objective.settings


def arguments(folder: Path, accumulation: int = 1, **more: Any) -> TrainingArguments:
    """The plan, as transformers says it."""
    drawn = plan()
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=STEPS,
        learning_rate=drawn.lr,
        weight_decay=0.0,
        adam_beta1=drawn.optimizer.betas[0],
        adam_beta2=drawn.optimizer.betas[1],
        adam_epsilon=drawn.optimizer.eps,
        max_grad_norm=drawn.clip,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **more,
    )


class InOrder(Trainer):
    """Reads the data set in its order."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type, unused-ignore]


def rows_of_the_plan() -> list[dict[str, list[int]]]:
    """What our loop trains on, step after step."""
    adapter, drawn = LlamaAdapter(), batches(len(IMAGES), plan(), SEED)
    rows = [row for step in drawn for row in rows_of(adapter, IMAGES, step, "random", SEED)]
    return [labelled(row.tokens, row.example) for row in rows]


def heldout() -> list[dict[str, list[int]]]:
    """The targets on which our loop calibrates."""
    return [labelled(members(example, CODEC, "random", SEED, epoch=0, count=1)[0], example) for example in HELDOUT]


def trained(folder: Path, loss: detmodes.TrainerLoss, accumulation: int = 1, **more: Any) -> tuple[Any, list[float]]:
    """What the Trainer makes of the model, and the loss that it logs of each step."""
    trainer = InOrder(
        model=language_model(),
        args=arguments(folder, accumulation, **more),
        train_dataset=rows_of_the_plan(),
        data_collator=collate,
        compute_loss_func=loss,
        callbacks=[loss.guard()],
    )
    trainer.train()
    return trainer.model, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def largest_difference(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return max(float((a - b).abs().max()) for (_, a), (_, b) in pairs)
