"""What each cell of a run will cost on a device: tokens, FLOP, memory and seconds, by phases.

In: a run's context and a Hardware. Out: a CellEstimate for each cell. Models are made as outlines, so no weights are
read and no forward pass is made; lengths are those of the suite's own targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from harness import objectives, registry
from harness.inference.outline import NetworkShape, leaves, making_outlines, shape_of
from harness.inference.precision import choose_numbers, hold_frozen_in_bf16
from harness.inference.teacher_forcing import CHUNK
from harness.inference.tree_queries import IMAGES
from harness.objectives.apply import chunk_elements
from harness.protocols import Adapter, EncodesImages, Predictor, Refills
from harness.run import lengths
from harness.run.context import Context, prepare_predictor
from harness.run.cost import arithmetic, memory, workload
from harness.run.cost.arithmetic import Cost, Decoded
from harness.run.cost.hardware import Hardware
from harness.run.cost.result import CellEstimate, PhaseCost
from harness.run.interval import CheckpointInterval
from harness.run.runner import group_problems
from harness.suite.cells import Cell
from harness.suite.schema import NamedModel
from harness.suite.train_settings import Train

DRAWS = 50
"""Batches that speak for all steps of training."""
PIXEL_SECONDS = 3e-8
"""Of a pixel of a picture that is read and made smaller, where nothing else goes on meanwhile: 9 ms for 640 x 480."""
WRITTEN = 3
"""Numbers that a checkpoint has for each that trains: the weight and two moments."""


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """A model without values. shape: None for what has no network."""

    predictor: Predictor
    shape: NetworkShape | None
    weights: memory.Weights
    calls: int
    notes: tuple[str, ...]


class Estimator:
    """Estimates cells of one run. Each model is outlined once, and each row (model, objective) estimated once: seeds
    cost the same."""

    def __init__(self, context: Context, hardware: Hardware) -> None:
        self.context, self.suite, self.hardware = context, context.suite, hardware
        self.device = torch.device("cpu" if hardware.waits else "cuda")
        self._outlines: dict[str, ModelOutline] = {}
        self._rows: dict[tuple[str, str], CellEstimate] = {}

    def estimate(self, cell: Cell) -> CellEstimate:
        """Of a cell that is computed from its beginning."""
        key = cell.model.model_dump_json(), cell.label
        if key not in self._rows:
            self._rows[key] = self._estimated(cell)
        return self._rows[key]

    def outline(self, model: NamedModel) -> ModelOutline:
        """The model as the suite makes it, without values."""
        key = model.model_dump_json()
        if key not in self._outlines:
            self._outlines[key] = self._outlined(model)
        return self._outlines[key]

    def problems(self) -> list[str]:
        """Says where prompts, targets or answers are longer than a model can read (harness.run.lengths)."""
        return [
            problem
            for model in self.suite.models
            for check in (lengths.problems, group_problems)
            for problem in check(self.context, model, self.outline(model).predictor)
        ]

    def _outlined(self, model: NamedModel) -> ModelOutline:
        registry.find("model", model.name)  # imported outside: constants of modules have values
        with making_outlines() as notes:
            made = registry.model(model.name, self.context.benchmark.categories, model.settings)
        prepare_predictor(self.context, model, made)
        if not isinstance(made, Adapter):
            return ModelOutline(made, None, memory.Weights(0, 0, 0), 0, ())
        if self._bf16(self.suite.train_of(model)):
            hold_frozen_in_bf16(made.model)
        shape, says = shape_of(made)
        if not says:
            notes.append(f"model {model.label} does not say its shape: all its matrices are counted for every token")
        calls = sum(1 for _ in leaves(made.model))
        return ModelOutline(made, shape, memory.Weights.of(made.model), calls, tuple(notes))

    def _bf16(self, plan: Train, *, training: bool = False) -> bool:
        precisions = (plan.precision,) if training else (self.suite.sample.precision, plan.precision)
        return choose_numbers(self.device, *precisions).bf16

    def _estimated(self, cell: Cell) -> CellEstimate:
        outline = self.outline(cell.model)
        if outline.shape is None:
            return CellEstimate()
        return RowEstimate(self, outline, outline.shape, cell).whole()


class RowEstimate:
    """The estimate of one objective on one model."""

    def __init__(self, estimator: Estimator, outline: ModelOutline, shape: NetworkShape, cell: Cell) -> None:
        objective = cell.objective
        self.context, self.suite, self.hardware = estimator.context, estimator.suite, estimator.hardware
        self.device = estimator.device
        self.outline, self.shape, self.objective = outline, shape, objective
        self.plans = () if objective is None else self.suite.plans_of(cell.model, objective)
        self.plan = self.plans[0] if self.plans else self.suite.train_of(cell.model)
        self.codec = outline.predictor.codec
        self.trains_bf16 = estimator._bf16(self.plan, training=True)
        self.asks_bf16 = estimator._bf16(self.plan)
        settings = None if objective is None else objectives.ready(objective.name, objective.settings)
        self.needs = frozenset() if settings is None else settings.needs
        self.settings = {} if settings is None else settings.settings

    def whole(self) -> CellEstimate:
        """All phases, and memory."""
        phases = {"training": self._training()} if self.plans else {}
        phases |= {"generation": self._generation(), "scoring": self._scoring()}
        if self.plans:
            phases["checkpoints"] = self._checkpoints(phases["training"].seconds)
        parts = self._memory()
        generation = parts.pop("keys and values")
        return CellEstimate(phases, {**parts, "keys and values": generation}, memory.peak(parts, generation))

    def _phase(self, name: str, tokens: float, parts: Sequence[tuple[Cost, bool]]) -> PhaseCost:
        """parts: of a phase, each with whether it is computed in bf16."""
        seconds = sum(self.hardware.seconds(cost, bf16=bf16, phase=name) for cost, bf16 in parts)
        flops = sum(cost.flops for cost, _ in parts)
        return PhaseCost(tokens, flops, seconds)

    # ---- training ----------------------------------------------------------------------------------------------------

    @cached_property
    def _train_texts(self) -> workload.Texts:
        examples = workload.sampled(self.context.questions("train", self.suite.seeds[0]))
        return workload.texts_of(examples, self.codec, self.plan)

    @cached_property
    def _step(self) -> tuple[arithmetic.Passed, int]:
        return workload.trained_on(self._train_texts, self.plan, min(self.plan.steps, DRAWS))

    @cached_property
    def _step_cost(self) -> Cost:
        """Of one step."""
        chunk = max(1, chunk_elements(self.device) // self.shape.vocabulary)
        recomputed = self.plan.gradient_checkpointing
        passed, _ = self._step
        cost = arithmetic.training(self.shape, passed, _size(self.trains_bf16), recomputed=recomputed, chunk=chunk)
        return cost + arithmetic.update(self.outline.weights.numbers, self.outline.calls)

    def _training(self) -> PhaseCost:
        passed, _ = self._step
        steps, rows = float(self.plan.steps), self.plan.batch_size
        if (samples := self._drawn_in_training) and "samples" in self.needs:
            steps *= 1 + samples / self.plan.set_size  # what is drawn is trained on beside the targets
        if self.objective is not None and self.objective.then is not None:
            steps += self.objective.then.amount.trained / rows
        parts = [(self._step_cost * steps, self.trains_bf16)]
        if "reference" in self.needs:
            images, read = len(self.context.questions("train", self.suite.seeds[0])), self.plan.steps * rows
            again = min(images, read) if self.plan.targets == "canonical" else read
            once = arithmetic.forward(self.shape, passed, _size(self.trains_bf16))
            parts.append((once * (again / rows), self.trains_bf16))
        if "experts" in self.needs:  # who learns a target is asked of each of them
            asked = passed.read_again(self._experts)
            once = arithmetic.forward(self.shape, asked, _size(self.trains_bf16))
            parts.append((once * self.plan.steps, self.trains_bf16))
        if "calibration" in self.needs:
            parts.append((self._forced(self.settings.get("calibration_examples")), self.trains_bf16))
        return self._phase("training", passed.outputs * steps, parts)

    @property
    def _experts(self) -> int:
        """How many read a target that is not learnt, and answer where an answer is greedy."""
        return int(self.settings.get("experts", 1))

    @property
    def _drawn_in_training(self) -> int:
        return int(self.settings.get("samples", 0))

    def _forced(self, number: int | None = None) -> Cost:
        """Of reading so many calibration examples (all by default) without a gradient."""
        heldout = self.context.questions("calibration", self.suite.seeds[0])[:number]
        heldout = lengths.readable(self.outline.predictor, heldout)
        if not heldout:
            return Cost()
        texts = workload.texts_of(heldout, self.codec, Train())
        return arithmetic.forward(self.shape, workload.forced(texts, CHUNK), _size(self.asks_bf16))

    # ---- evaluation --------------------------------------------------------------------------------------------------

    @cached_property
    def _asked_images(self) -> int:
        return len(self.context.questions("val", 0))

    @cached_property
    def _evaluations(self) -> tuple[int, int]:
        """How many ask everything (the last of them at each temperature of the curve), and how many are early ones."""
        return max(len(self.plans), 1), sum(len(plan.evaluations) - 1 for plan in self.plans)

    @property
    def _early_images(self) -> int:
        number = self.suite.train.eval_images
        if number is None:
            return self._asked_images
        share = min(1.0, number / max(1, len(self.context.benchmark.split("val"))))
        return round(self._asked_images * share)  # questions: an image may have several

    @cached_property
    def _val_texts(self) -> workload.Texts:
        examples = workload.sampled(self.context.questions("val", 0))
        trees = isinstance(self.outline.predictor, EncodesImages) and self.outline.predictor.reads_trees
        return workload.texts_of(examples, self.codec, self.plan, self.suite.score, trees)

    @cached_property
    def _generated(self) -> tuple[Cost, float]:
        """Of an image with all its answers: cost and tokens, as a mean over batches."""
        on_gpu = not self.hardware.waits
        model = self.outline.predictor
        refilled = isinstance(model, Refills) and model.refills and (on_gpu or self.asks_bf16)
        rows = self.suite.sample.samples + self._experts - 1  # every expert gives a greedy answer
        sample = self.suite.sample.model_copy(update={"samples": rows})
        batches = workload.answered(self._val_texts, sample, on_gpu=on_gpu, refilled=refilled)
        images = sum(batch.images for batch in batches)
        total = sum(map(self._decoded, batches), start=Cost())
        mean = float(workload.cut(self._val_texts, self.suite.sample).mean())
        return total * (1 / images), mean * (1 + rows)

    def _decoded(self, batch: Decoded) -> Cost:
        return arithmetic.decoding(self.shape, batch, _size(self.asks_bf16))

    def _generation(self) -> PhaseCost:
        whole, early = self._evaluations
        temperatures = len(self.suite.sample.curve)
        images = float((whole - 1 + temperatures) * self._asked_images + early * self._early_images)
        for plan in self.plans:
            if plan.probe is not None:
                images += len(plan.probes) * plan.probe.images
        images += self._drawn_rows / (1 + self.suite.sample.samples)
        cost, tokens = self._generated
        phase = self._phase("generation", tokens * images, [(cost * images, self.asks_bf16)])
        return replace(phase, seconds=phase.seconds + images * self._pixels * PIXEL_SECONDS)

    @cached_property
    def _pixels(self) -> float:
        """Of a validation picture, as a mean. (Those of training are read ahead.)"""
        examples = workload.sampled(self.context.questions("val", 0))
        return sum(example.width * example.height for example in examples) / len(examples)

    @property
    def _drawn_rows(self) -> float:
        """Sequences that training draws from the model: by its objective, or by the stage that follows."""
        drawn = 0.0
        if "samples" in self.needs:
            drawn += self.plan.steps * self.plan.batch_size / self.plan.set_size * self._drawn_in_training
        if self.objective is not None and self.objective.then is not None:
            drawn += self.objective.then.amount.drawn
        return drawn

    def _scoring(self) -> PhaseCost:
        """Of all answers at the last step, and of the greedy ones before it; and the held-out loss."""
        whole, early = self._evaluations
        sample = self.suite.sample
        rows = 1 + sample.samples * len(sample.curve)
        asked = partial(workload.scored, self._val_texts, at_once=min(sample.batch_images, IMAGES))
        last = asked(self._asked_images, rows)
        greedy = asked((whole - 1) * self._asked_images + early * self._early_images, 1)
        size = _size(self.asks_bf16)
        parts = [arithmetic.scoring(self.shape, item, size) for item in (last, greedy)]
        parts.append(self._forced() * (self._experts * (whole + early)))
        return self._phase("scoring", last.positions + greedy.positions, [(item, self.asks_bf16) for item in parts])

    # ---- checkpoints and memory --------------------------------------------------------------------------------------

    def _checkpoints(self, training: float) -> PhaseCost:
        """By time or steps, one before each evaluation, and the weights that stay."""
        every = CheckpointInterval.of(self.context.snapshot_every)
        whole, early = self._evaluations
        steps = sum(plan.steps for plan in self.plans)
        count = training / every.seconds if every.seconds else steps / (every.steps or steps)
        size = 4 * self.outline.weights.numbers
        written = size * WRITTEN * (int(count) + whole + early) + size * (self.suite.keep != "none")
        return PhaseCost(written, 0.0, written / self.hardware.disk)

    def _memory(self) -> dict[str, float]:
        sample, size = self.suite.sample, _size(self.asks_bf16)
        rows = sample.batch_images * (1 + sample.samples)
        longest = int(self._val_texts.prompt.max()) + sample.max_tokens
        kept_bytes = 0.0
        if self.plans:
            passed, largest = self._step
            kept_bytes = memory.activations(
                self.shape, passed.scaled(largest), _size(self.trains_bf16), self._recomputes
            )
        parts = memory.training_parts(self.outline.weights, kept_bytes, "reference" in self.needs)
        if not self.plans:
            parts |= dict.fromkeys(("gradients", "optimizer"), 0.0)
        elif self.plan.ema is not None:
            parts["optimizer"] += float(self.outline.weights.trained)  # the mean of the weights
        return {**parts, "keys and values": memory.cache(self.shape, rows, longest, size)}

    @property
    def _recomputes(self) -> bool:
        return self.plan.gradient_checkpointing


def _size(bf16: bool) -> int:
    """Bytes of a number that is computed with."""
    return 2 if bf16 else 4
