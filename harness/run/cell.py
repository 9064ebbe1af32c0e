"""One cell, from its base to its record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness import records
from harness.errors import ConfigError
from harness.evaluation.evaluate import Measurement, measure, speak
from harness.evaluation.generation import Kept
from harness.evaluation.probe import probe
from harness.inference.teacher_forcing import heldout_nll
from harness.protocols import Adapter
from harness.records import CategoryInfo, Record, layout
from harness.records.gallery import gallery_frame
from harness.records.layout import RESUME
from harness.records.log import Log, Tell
from harness.run.context import Context, Planned, Watch, build
from harness.run.resume import WEIGHTS, Resume
from harness.run.trackers import tracking
from harness.suite.cells import Cell
from harness.suite.schema import NamedObjective
from harness.system import files, interrupts, profiler, provenance, ranks
from harness.system.profiler import Phases
from harness.training.finetuning import batches
from harness.training.loop import train
from harness.training.objective import prepare
from harness.training.schedule import collision_rate
from harness.training.stage import Parts, Stage
from harness.training.stages import kinds

METRICS = "metrics.jsonl"
"""What training logs, as it comes (see harness.records.log)."""


def compute(context: Context, item: Planned, work: Path) -> Record | None:
    """Section 5 of the design, as a program. Goes on from what an earlier process left in `work`.

    Several processes may compute it together: rank 0 alone writes, and has the record. Raises Interrupted where SIGTERM
    or SIGINT came, once what was computed is saved.
    """
    main = context.accelerator.is_main_process
    if main:
        _remove_files(work)  # made again at the end, from what is kept in the folder RESUME
    provenance.reset_peak_memory(context.accelerator.device)
    settings = f"{item.digest} keep: {context.suite.keep}"
    measured = profiler.Recorder(_settle(context)) if context.profile else None
    with interrupts.deferred(partial(ranks.meet, context.accelerator)) as caught, _tracking(context, item) as tell:
        log = Log(work / METRICS if main else None, tell)
        resume = Resume(work / RESUME, log, settings, context.snapshot_every, caught, context.accelerator)
        run = _Run(context, item.cell, resume, measured or profiler.unmeasured)
        found: dict[str, Any] = {}
        if item.cell.objective is None:
            run.evaluate(0)
        else:
            found = run.train(item.cell.objective, work)
        if main:
            with run.phases("tables"):
                run.write_tables(work)
        caught.check()
    if not main:
        return None
    if measured is not None:
        profiler.write(layout.beside(item.folder, layout.PROFILE, ".json"), measured.seconds)
    evaluations = run.resume.evaluations
    return record_of(
        context,
        item,
        status="finished",
        **found,
        image_ids=tuple(example.image_id for example in context.benchmark.split("val")),
        evaluator=evaluations[-1].evaluator,
        score_source=evaluations[-1].score_source,
        evaluations=tuple(evaluation.info for evaluation in evaluations),
        curve=tuple(log.of("train")),
        probe=tuple(log.of("probe")),
        timings=run.resume.timings,
        peak_memory_mib=provenance.peak_memory(context.accelerator.device),
        files={path.name: files.sha256(path) for path in sorted(work.iterdir()) if path.is_file()},
    )


def _remove_files(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def _tracking(context: Context, item: Planned) -> AbstractContextManager[Tell]:
    name = context.track if context.accelerator.is_main_process else None
    folder = layout.beside(item.folder, layout.TRACKERS)
    return tracking(name, context.suite.suite, folder, item.info.model_dump(mode="json"))


def _settle(context: Context) -> Callable[[], object]:
    """Waits until the device has done what it was asked to."""
    device = context.accelerator.device
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


class _Run:
    """A cell in the making."""

    def __init__(self, context: Context, cell: Cell, resume: Resume, measured: Phases) -> None:
        self.context, self.suite, self.cell, self.resume = context, context.suite, cell, resume
        self.phases, self.main = measured, context.accelerator.is_main_process
        torch.manual_seed(cell.seed)
        with self.phases("preparation"):
            self.predictor = build(context, cell.model)
        plans = () if cell.objective is None else self.suite.plans_of(cell.objective)
        self.plan = plans[0] if plans else self.suite.train
        self.steps = sum(plan.steps for plan in plans)
        self.heldout = context.questions("calibration", cell.seed)
        self.questions = context.questions("val", cell.seed)

    def train(self, objective: NamedObjective, work: Path) -> dict[str, Any]:
        """Trains, with evaluations and probes on the way; returns what the record says of it."""
        adapter, examples, seed = self._adapter(), self.context.questions("train", self.cell.seed), self.cell.seed
        with self.phases("preparation"):
            base = self._fresh()
            started = time.perf_counter()
            then = self._then(objective)
            ready = prepare(objective.name, objective.settings, base, self.heldout, self.plan, seed)
            del base  # one model is in memory, unless this one is a reference
            collisions = collision_rate(batches(len(examples), self.plan, seed))
            prepared = time.perf_counter() - started
        watch, accelerator = self.context.watch, self.context.accelerator
        curve = train(
            adapter,
            examples,
            ready,
            self.plan,
            seed,
            accelerator,
            self.evaluate,
            lambda step, loss: watch.work("train", step, self.steps, f"loss {loss:.3f}"),
            self.probe,
            self.resume,
            self.context.workers,
            self.phases,
            then,
        )
        self.resume.timings |= {"train": prepared + curve[-1]["seconds"], "waiting": curve[-1]["waiting"]}
        if self.suite.keep != "none" and self.main:
            adapter.save(work / WEIGHTS)
        return {"threshold": ready.threshold, "collision_rate": collisions}

    def _then(self, objective: NamedObjective) -> list[Stage]:
        """The stages after fine-tuning; ConfigError if one cannot run."""
        settings = objective.then
        if settings is None:
            return []
        examples = self.context.questions("train", self.cell.seed)
        kinds.require_possible(settings, examples, self.context.accelerator)
        parts = Parts(examples, self.heldout, self.cell.seed, self._fresh, self._adapter().codec)
        return [kinds.stage(settings, self.suite.plans_of(objective)[1], parts)]

    def _fresh(self) -> Adapter:
        """The base once more."""
        base = build(self.context, self.cell.model)
        assert isinstance(base, Adapter)
        return base

    def _adapter(self) -> Adapter:
        if not isinstance(self.predictor, Adapter):
            raise ConfigError(f"model {self.cell.model.name}: cannot be fine-tuned, it has no logits")
        if self.plan.probe is not None and not self.heldout:
            raise ConfigError("train.probe: the benchmark has no calibration split to take it from")
        return self.predictor

    def evaluate(self, step: int) -> None:
        last = step == self.steps
        asked = len(self.questions) * (len(self.suite.sample.curve) if last else 1)
        counter = _Counter(self.context.watch, f"evaluate at {step}", asked)
        predictor, benchmark, suite, seed = self.predictor, self.context.benchmark, self.suite, self.cell.seed
        adapter = predictor if isinstance(predictor, Adapter) else None

        def measured(kept: Kept) -> Measurement | None:
            parts = {} if adapter is None else {"heldout-nll": partial(heldout_nll, adapter, self.heldout)}
            with self.phases("held-out loss"):
                nll = next(iter(kept(parts, lambda name: None)), None)
            if not self.main:
                speak(predictor, self.questions, suite.sample, seed, last, kept=kept)
                return None
            how = suite.sample, suite.score, seed, step, nll, last, counter, kept, self.phases
            return measure(predictor, benchmark, *how, questions=self.questions)

        kept_weights = suite.keep == "all" and self.cell.role == "trained"
        with self.phases("tables"):  # all that is in no phase of its own
            done = self.resume.evaluate(step, measured, adapter.save if adapter and kept_weights else None)
        if done is None:  # rank 0 has it
            return
        self.resume.log.add("evaluation", done.info.model_dump())
        self.resume.timings["evaluate"] += done.seconds

    def probe(self, step: int) -> None:
        started = time.perf_counter()
        assert self.plan.probe is not None
        benchmark, sample = self.context.benchmark, self.suite.sample
        shown = benchmark.split("calibration")[: self.plan.probe.images]
        with self.phases("probe"):
            row = probe(self._adapter(), shown, benchmark.categories, sample, self.cell.seed, self.heldout)
        self.resume.log.add("probe", {"step": step, **row})
        self.resume.timings["probe"] += time.perf_counter() - started

    def write_tables(self, work: Path) -> None:
        """The tables of all evaluations and of the stages, the gallery, and the weights that were kept with an
        evaluation."""
        evaluations = self.resume.evaluations
        for name in records.TABLES:
            frame = pd.concat([evaluation.table(name) for evaluation in evaluations], ignore_index=True)
            frame.to_parquet(work / f"{name}.parquet", compression="zstd", index=False)
        shown = [example.image_id for example in self.context.pictures]
        for path in self.resume.tables.values():
            _link(path, work / path.name)
        tables = {name: evaluations[-1].table(name) for name in ("samples", "mentions")}
        gallery_frame(tables, shown, self.suite.sample.temperature).to_parquet(work / records.GALLERY, index=False)
        for evaluation in evaluations:
            if (evaluation.folder / WEIGHTS).exists():
                _link(evaluation.folder / WEIGHTS, work / f"model-step{evaluation.info.step}.safetensors")


def record_of(context: Context, item: Planned, **fields: Any) -> Record:
    """The part that every record has, finished or failed."""
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
        data=context.benchmark.describe(),
        model=item.info.model,
        code=provenance.code_version(),
        packages=provenance.package_versions(),
        device=provenance.describe_device(context.accelerator.device, context.accelerator.num_processes),
        **fields,
    )


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


class _Counter:
    """Adds up finished images for the watch."""

    def __init__(self, watch: Watch, kind: str, total: int) -> None:
        self._watch, self._kind, self._total, self._done = watch, kind, total, 0

    def __call__(self, images: int) -> None:
        self._done += images
        self._watch.work(self._kind, self._done, self._total)
