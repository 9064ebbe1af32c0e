"""Cells of a suite: order, cache, one record each.

A cell is computed in a hidden folder and renamed into place when its record is complete: whatever is visible
under `cells/` has finished or has failed cleanly. A finished cell is never run again.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd
import torch
from accelerate import Accelerator

from harness import gallery, objectives, provenance, records, registry
from harness.batches import collision_rate
from harness.errors import ConfigError, DetmodesError
from harness.evaluate import Measurement, gallery_frame, measure
from harness.files import write_text
from harness.probe import probe
from harness.protocols import Adapter, Benchmark, Predictor
from harness.records import CategoryInfo, CellInfo, Record
from harness.suite import Cell, NamedModel, Suite, cells
from harness.teacher import heldout_nll
from harness.train import batches, prepare, train
from harness.types import Example

BASE_SEED = 0
"""Parts of a base that have no weights (random configurations, new vocabulary rows) are drawn from this seed,
the same for every cell: the base is one model."""

Device = Literal["auto", "cpu", "cuda"]


class Watch(Protocol):
    """What a run tells about its progress (the command line draws it)."""

    def cell(self, cell: Cell, index: int, total: int, state: str) -> None: ...

    def work(self, kind: str, done: int, total: int, note: str = "") -> None: ...


class Silence:
    """A Watch that says nothing."""

    def cell(self, cell: Cell, index: int, total: int, state: str) -> None: ...

    def work(self, kind: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell with everything that determines its result, and where that result goes."""

    cell: Cell
    info: CellInfo
    digest: str
    folder: Path


@dataclass
class Context:
    """What all cells of a run share."""

    suite: Suite
    benchmark: Benchmark
    accelerator: Accelerator
    watch: Watch = field(default_factory=Silence)

    @cached_property
    def train_images(self) -> Counter[int]:
        """How many training images have each category, by its id."""
        return Counter(
            c for example in self.benchmark.split("train") for c in {i.category_id for i in example.instances}
        )

    @cached_property
    def pictures(self) -> list[Example]:
        """The validation images that the gallery shows."""
        return gallery.chosen(self.benchmark.split("val"), self.benchmark.categories)


def open_context(suite: Suite, data: Path | None, device: Device, watch: Watch | None = None) -> Context:
    benchmark = registry.benchmark(suite.benchmark.name, suite.benchmark.settings, data)
    return Context(suite, benchmark, accelerator(device), watch or Silence())


def accelerator(device: Device) -> Accelerator:
    """bf16 autocast on a GPU, float32 on a CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device here; use --device cpu")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if on_gpu else "no")


def plan(context: Context, output: Path, only: str | None = None) -> list[Planned]:
    """Every cell of the suite (that matches `only`), in order."""
    described: dict[str, dict[str, Any]] = {}
    planned = []
    for cell in cells(context.suite):
        key = cell.model.model_dump_json()
        if key not in described:
            described[key] = build(context, cell.model).describe()
        info = _cell_info(context, cell, described[key])
        digest = records.digest_of(info)
        planned.append(Planned(cell, info, digest, output / "cells" / f"{cell.id}-{digest[:8]}"))
    return _matching(planned, only)


def _matching(planned: list[Planned], only: str | None) -> list[Planned]:
    chosen = [item for item in planned if only is None or fnmatch.fnmatch(item.cell.id, only)]
    if not chosen:
        raise ConfigError(f"--only {only!r}: matches none of: {', '.join(item.cell.id for item in planned)}")
    return chosen


def run(context: Context, output: Path, only: str | None = None) -> list[Record]:
    """Runs what is not finished yet; returns a record for every planned cell, failed ones included."""
    everything = plan(context, output)
    chosen = _matching(everything, only)
    (output / "cells").mkdir(parents=True, exist_ok=True)
    write_text(output / "suite.json", context.suite.model_dump_json(indent=1) + "\n")
    gallery.write(output, context.pictures, context.benchmark.categories)
    write_text(output / "cells.json", json.dumps([item.digest for item in everything], indent=1) + "\n")
    done = []
    for index, item in enumerate(chosen, 1):
        cached = finished(item)
        context.watch.cell(item.cell, index, len(chosen), "cached" if cached else "running")
        record = cached or _run_cell(context, item)
        context.watch.cell(item.cell, index, len(chosen), record.status)
        done.append(record)
    return done


def build(context: Context, model: NamedModel) -> Predictor:
    """A fresh base of a model, on the device."""
    torch.manual_seed(BASE_SEED)
    made = registry.model(model.name, context.benchmark.categories, model.settings)
    if isinstance(made, Adapter):
        made.model.to(context.accelerator.device)
    return made


def finished(item: Planned) -> Record | None:
    """The record of a cell that is done: finished, of these settings, with its tables intact."""
    try:
        record = records.read(item.folder)
        if record.status != "finished" or record.digest != item.digest:
            return None
        records.verify_files(record, item.folder, [f"{name}.parquet" for name in records.TABLES])
    except DetmodesError:
        return None
    return record


def _run_cell(context: Context, item: Planned) -> Record:
    """The record of a cell, whatever happens in it; an interrupt still ends the run."""
    work = item.folder.with_name(f".{item.folder.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        record = _compute(context, item, work)
    except Exception as error:
        (work / "error.txt").write_text(traceback.format_exc())
        record = _record(context, item, status="failed", error=f"{type(error).__name__}: {error}")
    records.write(record, work)
    shutil.rmtree(item.folder, ignore_errors=True)
    work.rename(item.folder)
    return record


def _compute(context: Context, item: Planned, work: Path) -> Record:
    """Section 5 of the design, as a program."""
    cell, suite = item.cell, context.suite
    provenance.reset_peak_memory(context.accelerator.device)
    torch.manual_seed(cell.seed)
    predictor = build(context, cell.model)
    examples, heldout = context.benchmark.split("train"), context.benchmark.split("calibration")
    plan = suite.train if cell.objective is None else suite.train_of(cell.objective)
    measured: list[Measurement] = []
    timings = {"train": 0.0, "evaluate": 0.0, "probe": 0.0}
    curve: list[dict[str, Any]] = []
    probed: list[dict[str, Any]] = []
    threshold = collisions = None

    def evaluate(step: int) -> None:
        started = time.perf_counter()
        nll = heldout_nll(predictor, heldout) if isinstance(predictor, Adapter) else None
        last = cell.objective is None or step == plan.steps
        images = len(context.benchmark.split("val")) * (len(suite.sample.curve) if last else 1)
        counter = _Counter(context.watch, f"evaluate at {step}", images)
        benchmark, seed = context.benchmark, cell.seed
        measured.append(measure(predictor, benchmark, suite.sample, suite.score, seed, step, nll, last, counter))
        if suite.keep == "all" and isinstance(predictor, Adapter) and cell.role == "trained":
            predictor.save(work / f"model-step{step}.safetensors")
        timings["evaluate"] += time.perf_counter() - started

    def look(step: int) -> None:
        started = time.perf_counter()
        assert isinstance(predictor, Adapter)
        assert plan.probe is not None
        shown = heldout[: plan.probe.images]
        probed.append({"step": step} | probe(predictor, shown, context.benchmark.categories, suite.sample, cell.seed))
        timings["probe"] += time.perf_counter() - started

    if cell.objective is None:
        evaluate(0)
    else:
        if not isinstance(predictor, Adapter):
            raise ConfigError(f"model {cell.model.name}: cannot be fine-tuned, it has no logits")
        if plan.probe is not None and not heldout:
            raise ConfigError("train.probe: the benchmark has no calibration split to take it from")
        base = build(context, cell.model)
        assert isinstance(base, Adapter)
        started = time.perf_counter()
        objective = prepare(cell.objective.name, cell.objective.settings, base, heldout, plan, cell.seed)
        threshold = objective.threshold
        collisions = collision_rate(batches(len(examples), plan, cell.seed))
        curve = train(
            predictor,
            examples,
            objective,
            plan,
            cell.seed,
            context.accelerator,
            evaluate,
            lambda step, loss: context.watch.work("train", step, plan.steps, f"loss {loss:.3f}"),
            look,
        )
        timings["train"] = time.perf_counter() - started - timings["evaluate"] - timings["probe"]
        if suite.keep != "none":
            predictor.save(work / "model.safetensors")

    for name in records.TABLES:
        frame = pd.concat([measurement.tables[name] for measurement in measured], ignore_index=True)
        frame.to_parquet(work / f"{name}.parquet", compression="zstd", index=False)
    last = measured[-1]
    shown = [example.image_id for example in context.pictures]
    gallery_frame(last, shown, suite.sample.temperature).to_parquet(work / records.GALLERY, index=False)
    return _record(
        context,
        item,
        status="finished",
        threshold=threshold,
        collision_rate=collisions,
        image_ids=tuple(example.image_id for example in context.benchmark.split("val")),
        evaluator={"engine": last.evaluation.engine, "version": last.evaluation.version},
        score_source=last.score_source,
        evaluations=tuple(measurement.info for measurement in measured),
        curve=tuple(curve),
        probe=tuple(probed),
        timings=timings,
        peak_memory_mib=provenance.peak_memory(context.accelerator.device),
        files={path.name: records.sha256(path) for path in sorted(work.iterdir())},
    )


def _record(context: Context, item: Planned, **fields: Any) -> Record:
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
        device=provenance.describe_device(context.accelerator.device),
        **fields,
    )


def _cell_info(context: Context, cell: Cell, model: dict[str, Any]) -> CellInfo:
    objective = None
    if cell.objective is not None:
        settings = objectives.complete(cell.objective.name, cell.objective.settings)
        objective = {"name": cell.objective.name, **settings}
    return CellInfo(
        benchmark=context.benchmark.describe(),
        model=model,
        objective=objective,
        seed=cell.seed,
        train=None if cell.objective is None else context.suite.train_of(cell.objective).model_dump(mode="json"),
        sample=context.suite.sample.model_dump(mode="json"),
        score=context.suite.score,
    )


class _Counter:
    """Adds up finished images for the watch."""

    def __init__(self, watch: Watch, kind: str, total: int) -> None:
        self._watch, self._kind, self._total, self._done = watch, kind, total, 0

    def __call__(self, images: int) -> None:
        self._done += images
        self._watch.work(self._kind, self._done, self._total)
