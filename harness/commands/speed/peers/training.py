"""Measures our training loop and our sampling beside those of transformers: the same small vision-language model with
random weights, the same batches, images and settings, in one process and with the same threads.

`Trainer` gets the objective through `detmodes.loss`, the images and targets from a data set that prepares each row when
it is asked for, as our loop does. `generate` draws as many samples of each image as ours.

Shape legend: B rows of a batch, I images, K samples of an image, L tokens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments

import detmodes
from harness import registry
from harness.inference.device import accelerator_on
from harness.suite.train_settings import Train
from harness.system import timing
from harness.training.finetuning import FineTuning, batches, rows_of
from harness.training.loop import train
from harness.training.objective import prepare
from harness.training.rows import Row
from harness.training.stage import Work
from harness.types import IGNORED_LABEL, Example
from model_zoo.vlm.adapter import Vlm

FAMILY, OBJECTIVE, SEED = "paligemma", "ce", 0
OURS, TRAINER, GENERATE = "detmodes", "Trainer", "generate"
SAMPLES = 8
BATCH = 16
Value = dict[str, Any]


def measure(steps: int, images: int, tokens: int, repeats: int) -> Value:
    """Trains and samples by both; runs in a process of its own.

    Args:
        steps: of a run of training, of BATCH rows each.
        images: that are sampled, SAMPLES times each and at once.
        tokens: a sample's largest length.
        repeats: of each measurement; both take turns.
    """
    return {
        "family": FAMILY,
        "threads": torch.get_num_threads(),
        "training": measure_training(steps, repeats),
        "sampling": measure_sampling(images, tokens, repeats),
    }


def new_model(images: int) -> tuple[Vlm, Sequence[Example]]:
    """Makes the model, the same at every call, and so many rendered images."""
    sets = {"domain": "cluttered", "train_images": images, "val_images": 1, "calibration_images": 0}
    benchmark = registry.benchmark("shapes", sets, None)
    torch.manual_seed(SEED)
    return Vlm(benchmark.categories, {"family": FAMILY}), benchmark.split("train")


# ---- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """Seconds of the training alone, without what is set up before; the losses that were logged."""

    seconds: float
    losses: list[float]


def measure_training(steps: int, repeats: int) -> Value:
    """Measures the median seconds of a run by each, its time over ours, and the largest difference between losses of
    the same step, of a first run that is not timed and logs every step."""
    plan = Train(steps=steps, batch_size=BATCH, targets="canonical", warm_up=0, log_every=1, schedule="constant")
    runs = {OURS: partial(run_our_loop, *new_model(BATCH)), TRAINER: partial(run_trainer, *new_model(BATCH))}
    losses = [run(plan).losses for run in runs.values()]
    quiet = plan.model_copy(update={"log_every": steps})
    times: dict[str, list[float]] = {tool: [] for tool in runs}
    for _ in range(repeats):
        for tool, run in runs.items():
            times[tool].append(run(quiet).seconds)
    return {
        "steps": steps,
        "batch": BATCH,
        "seconds": timing.medians(times),
        "ratios": timing.ratios(times, OURS),
        "difference": max(abs(a - b) for a, b in zip(*losses, strict=True)),
    }


def run_our_loop(adapter: Vlm, examples: Sequence[Example], plan: Train) -> TrainingRun:
    """Trains the model in place."""
    objective = prepare(OBJECTIVE, {}, adapter, (), plan, SEED)
    work = Work(adapter, examples, SEED, accelerator_on("cpu"))
    start = time.perf_counter()
    curve = train(work, [FineTuning(objective, plan)])
    return TrainingRun(time.perf_counter() - start, [row["loss"] for row in curve])


def run_trainer(adapter: Vlm, examples: Sequence[Example], plan: Train) -> TrainingRun:
    """Trains the model in place on the rows of the same plan."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _InOrder(
            model=adapter.model,
            args=_arguments(folder, plan),
            train_dataset=_TargetRows(adapter, examples, plan),
            data_collator=partial(collate, adapter),
            compute_loss_func=detmodes.loss(OBJECTIVE),
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return TrainingRun(seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def _arguments(folder: str, plan: Train) -> TrainingArguments:
    """Says the plan as transformers does."""
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=plan.batch_size,
        max_steps=plan.steps,
        learning_rate=plan.lr,
        weight_decay=plan.weight_decay,
        adam_beta1=plan.optimizer.betas[0],
        adam_beta2=plan.optimizer.betas[1],
        adam_epsilon=plan.optimizer.eps,
        max_grad_norm=plan.clip,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        logging_steps=plan.log_every,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


class _InOrder(Trainer):
    """Reads its data set in order, which is that of our batches."""

    def _get_train_sampler(self, *arguments: Any) -> Any:
        del arguments
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type, unused-ignore]


class _TargetRows(Dataset[Row]):
    """The rows that our loop trains on, step after step; each is made when it is asked for."""

    def __init__(self, adapter: Vlm, examples: Sequence[Example], plan: Train) -> None:
        self._adapter, self._examples, self._targets = adapter, examples, plan.targets
        self._draws = [draw for drawn in batches(len(examples), plan, SEED) for draw in drawn]

    def __len__(self) -> int:
        return len(self._draws)

    def __getitem__(self, place: int) -> Row:
        (row,) = rows_of(self._adapter, self._examples, [self._draws[place]], self._targets, SEED)
        return row


def collate(adapter: Vlm, rows: Sequence[Row]) -> dict[str, Any]:
    """Makes a batch of transformers: prompts and targets [B, L] padded on the right, no label for the prompt."""
    codec = adapter.codec
    prompts = [codec.prompt(row.example) for row in rows]
    length = max(len(prompt) + len(row.tokens) for prompt, row in zip(prompts, rows, strict=True))
    tokens = torch.full((len(rows), length), codec.tokens.pad)
    labels = torch.full((len(rows), length), IGNORED_LABEL)
    for place, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        end = len(prompt) + len(row.tokens)
        tokens[place, :end] = torch.tensor([*prompt, *row.tokens])
        labels[place, len(prompt) : end] = torch.tensor(row.tokens)
    pixels = adapter.pixels([row.example for row in rows])
    return {**adapter.family.first(adapter.model, adapter.prompt, pixels, tokens), "labels": labels}


# ---- sampling ------------------------------------------------------------------------------------------------------


def measure_sampling(images: int, tokens: int, repeats: int) -> Value:
    """Measures the median seconds of K samples of each image by each, its time over ours, and how many greedy answers
    are the same."""
    adapter, examples = new_model(images)
    adapter.model.eval()
    tasks: dict[str, Callable[[], object]] = {
        OURS: lambda: adapter.generate(examples, [1.0] * SAMPLES, SEED, tokens),
        GENERATE: lambda: generate(adapter, examples, tokens, do_sample=True, num_return_sequences=SAMPLES),
    }
    times = timing.interleaved(tasks, repeats)
    return {
        "images": images,
        "samples": SAMPLES,
        "tokens": tokens,
        "seconds": timing.medians(times),
        "ratios": timing.ratios(times, OURS),
        "same": same_greedy_answers(adapter, examples, tokens),
    }


def generate(adapter: Vlm, examples: Sequence[Example], tokens: int, **options: Any) -> Tensor:
    """Returns what transformers' `generate` answers, [I * K, L], after the prompt: from the whole distribution at
    temperature 1 where it samples, without the truncation that it does by default."""
    prompts = torch.tensor([adapter.codec.prompt(example) for example in examples])
    inputs = adapter.family.first(adapter.model, adapter.prompt, adapter.pixels(examples), prompts)
    ends = {"eos_token_id": adapter.codec.tokens.end, "pad_token_id": adapter.codec.tokens.pad}
    whole = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if options.get("do_sample") else {}
    answers: Tensor = adapter.model.generate(**inputs, **ends, **whole, **options, max_new_tokens=tokens)
    return answers[:, prompts.shape[1] :]


def same_greedy_answers(adapter: Vlm, examples: Sequence[Example], tokens: int) -> int:
    """Counts the images to which both give the same greedy answer."""
    ours = [answers[0].tokens for answers in adapter.generate(examples, [0.0], SEED, tokens)]
    theirs = generate(adapter, examples, tokens, do_sample=False).tolist()
    return sum(tuple(other[: len(answer)]) == answer for answer, other in zip(ours, theirs, strict=True))
