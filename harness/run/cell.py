"""Computes one cell, from its base to its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness import records
from harness.errors import ConfigError
from harness.evaluation.evaluate import Measurement, measure
from harness.evaluation.probe import probe
from harness.evaluation.scored_samples import EvaluationSettings, sample_and_score
from harness.inference.precision import choose_numbers
from harness.inference.teacher_forcing import heldout_nll
from harness.protocols import Adapter, Benchmark
from harness.records import CategoryInfo, Record, layout
from harness.records.cache import SharedCache
from harness.records.gallery import gallery_frame
from harness.records.layout import RESUME
from harness.records.log import Log, Tell
from harness.run.context import Context, Planned, build, evaluation_numbers, precision_asked_for
from harness.run.identity import foreign_parts, measures_of, seeds_of
from harness.run.interval import CheckpointInterval
from harness.run.lengths import cut_targets, readable
from harness.run.output.watch import Watch
from harness.run.resume import CellCheckpointer
from harness.run.resume_folder import WEIGHTS
from harness.run.task import experts_of
from harness.run.trackers import tracking
from harness.sequence.targets import writable
from harness.suite.cells import Cell
from harness.suite.schema import NamedObjective
from harness.system import files, interrupts, profiler, ranks
from harness.system.profiler import PhaseRecorder, phase, recording
from harness.system.provenance.memory import PeakMemory
from harness.system.provenance.versions import code_version, describe_device, package_versions
from harness.training.finetuning import FineTuning, batches, left_out_objects, unwritable_objects
from harness.training.loop import Hooks, train
from harness.training.objective import prepare
from harness.training.schedule import collision_rate
from harness.training.stage import Stage, Work
from harness.training.stages import kinds
from harness.training.stages.prompts import prompt_counts
from harness.types import Example

METRICS = "metrics.jsonl"
"""The file with the log of training, written as rows come (see harness.records.log)."""


def compute(context: Context, item: Planned, folder: Path, check: Callable[[], None] = lambda: None) -> Record | None:
    """Computes a cell in `folder`, resuming from what an earlier process left there, and returns its record.

    check: called before anything in the folder is written or removed; raises where another process has taken the cell
    over.

    Several processes may compute one cell: only rank 0 writes and returns the record. Raises Interrupted where
    SIGTERM or SIGINT came, once the computed results are saved.
    """
    main = context.accelerator.is_main_process
    if main:
        check()
        _remove_files(folder)  # made again at the end, from the files in the folder RESUME
    peak = PeakMemory(context.accelerator.device)
    settings = f"{item.digest} keep: {context.suite.keep}"
    recorder = PhaseRecorder(_settle(context)) if context.profile else None
    with (
        interrupts.deferred(partial(ranks.meet, context.accelerator)) as caught,
        _tracking(context, item) as tell,
        recording(recorder),
        CellCheckpointer(
            folder / RESUME,
            Log(folder / METRICS if main else None, tell, check),
            settings,
            CheckpointInterval.of(context.snapshot_every),
            caught,
            context.accelerator,
            check,
        ) as checkpointer,
    ):
        run = _Run(context, item.cell, checkpointer)
        figures: dict[str, Any] = {}
        if item.cell.objective is None:
            run.evaluate(0)
        else:
            figures = run.train(item.cell.objective, folder)
        if main:
            check()
            with phase("tables"):
                run.write_tables(folder)
        caught.check()
    if not main:
        return None
    if recorder is not None:
        profiler.write(layout.beside(item.folder, layout.PROFILE, ".json"), recorder.seconds)
    evaluations, log = checkpointer.evaluations.finished, checkpointer.log
    return record_of(
        context,
        item,
        status="finished",
        **figures,
        image_ids=tuple(example.image_id for example in context.benchmark.split("val")),
        evaluator=evaluations[-1].evaluator,
        score_source=evaluations[-1].score_source,
        evaluations=tuple(evaluation.info for evaluation in evaluations),
        curve=tuple(log.of("train")),
        probe=tuple(log.of("probe")),
        timings=checkpointer.timings,
        precision=checkpointer.precision.observed,
        own_peak_mib=peak.read(from_the_start=not checkpointer.goes_on),
        files={path.name: files.sha256(path) for path in sorted(folder.iterdir()) if path.is_file()},
    )


def _remove_files(folder: Path) -> None:
    for path in filter(Path.is_file, folder.iterdir()):
        path.unlink()


def _tracking(context: Context, item: Planned) -> AbstractContextManager[Tell]:
    name = context.track if context.accelerator.is_main_process else None
    folder = layout.beside(item.folder, layout.TRACKERS)
    return tracking(name, context.suite.suite, folder, item.info.model_dump(mode="json"))


def _settle(context: Context) -> Callable[[], object]:
    """Waits until the device has finished its work."""
    device = context.accelerator.device
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


class _Run:
    """A cell being computed: prepare, train with evaluations and probes on the way, write the tables."""

    def __init__(self, context: Context, cell: Cell, checkpointer: CellCheckpointer) -> None:
        self.context, self.suite, self.cell, self.checkpointer = context, context.suite, cell, checkpointer
        self.log, self.main = checkpointer.log, context.accelerator.is_main_process
        torch.manual_seed(cell.seed)
        plans = () if cell.objective is None else self.suite.plans_of(cell.model, cell.objective)
        self.plan = plans[0] if plans else self.suite.train_of(cell.model)
        self.ends = tuple(accumulate(plan.steps for plan in plans)) or (0,)
        self.steps = self.ends[-1]
        self.numbers = evaluation_numbers(context, self.plan)
        with phase("preparation"):
            self.predictor = build(context, cell.model, self.plan)
            if cell.objective is not None:
                named = cell.objective
                self.predictor.codec.experts = experts_of(self.predictor, named.name, named.settings)
        if isinstance(self.predictor, Adapter):
            checkpointer.precision.watch(self.predictor.model, context.accelerator.device)
        self.heldout = readable(self.predictor, context.questions("calibration", cell.seed))
        self.questions = context.questions("val", cell.seed)

    def train(self, objective: NamedObjective, folder: Path) -> dict[str, Any]:
        """Trains, with evaluations and probes on the way; returns the fields of the record about training."""
        adapter = self._adapter()
        with phase("preparation"):
            started = time.perf_counter()
            work = self._work(adapter)
            later = self._later_stages(objective, work)
            # As the reference in training.
            with choose_numbers(work.accelerator.device, self.plan.precision).autocast():
                ready = prepare(objective.name, objective.settings, work.fresh(), self.heldout, self.plan, work.seed)
            collisions = collision_rate(batches(len(work.examples), self.plan, work.seed))
            prepared = time.perf_counter() - started
        hooks = Hooks(evaluate=self.evaluate, probe=self.probe, progress=self._tell_progress)
        curve = train(work, [FineTuning(ready, self.plan), *later], hooks, self.checkpointer)
        self.checkpointer.timings |= {"train": prepared + curve[-1]["seconds"], "waiting": curve[-1]["waiting"]}
        if self.suite.keep != "none" and self.main:
            adapter.save(folder / WEIGHTS)
        return {
            "threshold": ready.threshold,
            "collision_rate": collisions,
            "epochs": self.plan.epochs_after(len(work.examples)),
            "left_out_objects": left_out_objects(work.examples, self.plan.max_objects),
            "unwritable_objects": unwritable_objects(self.context.questions("train", self.cell.seed), adapter.codec),
            "cut_targets": cut_targets(adapter, work.examples, self.plan, self.suite.sample.max_tokens),
            "prompts": prompt_counts(self.checkpointer.tables.paths),
        }

    def _work(self, adapter: Adapter) -> Work:
        return Work(
            adapter,
            examples=tuple(writable(e, adapter.codec) for e in self.context.questions("train", self.cell.seed)),
            seed=self.cell.seed,
            accelerator=self.context.accelerator,
            heldout=self.heldout,
            fresh=self._fresh,
            workers=self.context.workers,
            cache=self.checkpointer.tables,
            log=self.log,
            numbers=self.numbers,
        )

    def _later_stages(self, objective: NamedObjective, work: Work) -> list[Stage]:
        """Makes the stages after fine-tuning; ConfigError if one cannot run."""
        settings = objective.then
        if settings is None:
            return []
        kinds.require_possible(settings, work.examples, work.accelerator)
        return [kinds.stage(settings, self.suite.plans_of(self.cell.model, objective)[1], work)]

    def _fresh(self) -> Adapter:
        """Makes another model like the base, which shares its frozen tensors."""
        base = build(self.context, self.cell.model, self.plan, like=self._adapter())
        assert isinstance(base, Adapter)
        return base

    def _adapter(self) -> Adapter:
        if not isinstance(self.predictor, Adapter):
            raise ConfigError(f"model {self.cell.model.name}: cannot be fine-tuned, it has no logits")
        if self.plan.probe is not None and not self.heldout:
            raise ConfigError("train.probe: the benchmark has no calibration split to take it from")
        return self.predictor

    def _tell_progress(self, step: int, loss: float) -> None:
        self.context.watch.work("train", step, self.steps, f"loss {loss:.3f}")

    def evaluate(self, step: int) -> None:
        """Evaluates the model as it is now, or reads the stored evaluation."""
        adapter = self.predictor if isinstance(self.predictor, Adapter) else None
        kept_weights = self.suite.keep == "all" and self.cell.role == "trained"
        save = adapter.save if adapter and kept_weights else None
        with phase("tables"):  # everything outside of another phase
            done = self.checkpointer.evaluations.get_or_make(step, partial(self._measure, step), save)
        if done is None:  # rank 0 has it
            return
        self.log.add("evaluation", done.info.model_dump())
        self.checkpointer.timings["evaluate"] += done.seconds

    def _measure(self, step: int, cache: SharedCache) -> Measurement | None:
        """Returns the measurement on rank 0; the others compute their share of its parts and return None."""
        predictor, suite, seed, last = self.predictor, self.suite, self.cell.seed, step == self.steps
        benchmark, questions = self._asked(step)
        asked = len(questions) * (len(suite.sample.curve) if last else 1)
        counter = _Counter(self.context.watch, f"evaluate at {step}", asked)
        settings = EvaluationSettings(suite.sample, suite.score, seed, last, suite.measures)
        with self.numbers.autocast():
            nll = self._heldout_loss(cache)
            if not self.main:
                sample_and_score(predictor, questions, settings, cache=cache)
                return None
            measured = measure(
                predictor,
                benchmark,
                settings,
                step=step,
                heldout_nll=nll,
                questions=questions,
                progress=counter,
                cache=cache,
            )
        some = None if benchmark is self.context.benchmark else len(benchmark.split("val"))
        return replace(measured, info=measured.info.model_copy(update={"images": some}))

    def _asked(self, step: int) -> tuple[Benchmark, Sequence[Example]]:
        """Returns the questions at a step: all when a stage ends, before that only those about the images of early
        evaluations."""
        if step in self.ends:
            return self.context.benchmark, self.questions
        early = self.context.early
        ids = {example.image_id for example in early.split("val")}
        return early, [question for question in self.questions if question.image_id in ids]

    def _heldout_loss(self, cache: SharedCache) -> float | None:
        """Computes the held-out loss in nats per target token; None without held-out examples, and for models that
        cannot be trained."""
        if not isinstance(self.predictor, Adapter):
            return None
        with phase("held-out loss"):
            return cache.get_or_make("heldout-nll", partial(heldout_nll, self.predictor, self.heldout))

    def probe(self, step: int) -> None:
        """Measures the model on the probe images."""
        started = time.perf_counter()
        assert self.plan.probe is not None
        benchmark, sample = self.context.benchmark, self.suite.sample
        shown = benchmark.split("calibration")[: self.plan.probe.images]
        with phase("probe"), self.numbers.autocast():
            row = probe(self._adapter(), shown, benchmark.categories, sample, self.cell.seed, self.heldout)
        self.log.add("probe", {"step": step, **row})
        self.checkpointer.timings["probe"] += time.perf_counter() - started

    def write_tables(self, folder: Path) -> None:
        """Writes the tables of all evaluations and of the stages, the gallery, and the weights that were stored with
        an evaluation."""
        evaluations = self.checkpointer.evaluations.finished
        for name in records.TABLES:
            frame = pd.concat([evaluation.table(name) for evaluation in evaluations], ignore_index=True)
            frame.to_parquet(folder / f"{name}.parquet", compression="zstd", index=False)
        shown = [example.image_id for example in self.context.pictures]
        for path in self.checkpointer.tables.paths.values():
            files.link(path, folder / path.name)
        tables = {name: evaluations[-1].table(name) for name in ("samples", "mentions")}
        gallery_frame(tables, shown, self.suite.sample.temperature).to_parquet(folder / records.GALLERY, index=False)
        for evaluation in evaluations:
            if (evaluation.folder / WEIGHTS).exists():
                files.link(evaluation.folder / WEIGHTS, folder / f"model-step{evaluation.info.step}.safetensors")


def record_of(context: Context, item: Planned, **fields: Any) -> Record:
    """Makes the part that every record has, finished or failed."""
    return Record(
        suite=context.suite.suite,
        label=item.cell.label,
        model_label=item.cell.model.label,
        role=item.cell.role,
        cell=item.info,
        digest=item.digest,
        categories=tuple(
            CategoryInfo(
                id=category.id,
                names=category.names,
                frequency=category.frequency,
                train_images=context.train_images.get(category.id, 0),
            )
            for category in context.benchmark.categories
        ),
        left_out_pictures=context.left_out if context.suite.images == "skip" else None,
        data=context.benchmark.describe(),
        model=item.info.model,
        code=code_version(),
        packages=package_versions(),
        parts=foreign_parts(context.suite, item.cell),
        measures=measures_of(context.suite),
        seeds=seeds_of(item.cell),
        device=describe_device(
            context.accelerator.device, context.accelerator.num_processes, precision_asked_for(context, item.cell)
        ),
        **fields,
    )


class _Counter:
    """Counts finished images for the watch."""

    def __init__(self, watch: Watch, kind: str, total: int) -> None:
        self._watch, self._kind, self._total, self._done = watch, kind, total, 0

    def __call__(self, images: int) -> None:
        self._done += images
        self._watch.work(self._kind, self._done, self._total)
