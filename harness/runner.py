"""Cells of a suite: order, cache, one record each.

A cell is computed in a hidden folder and renamed into place when its record is complete: whatever is visible
under `cells/` has finished or has failed cleanly. A finished cell is never run again.
"""

from __future__ import annotations

import fnmatch
import json
import platform
import resource
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd
import torch
from accelerate import Accelerator

from harness import __version__, objectives, records, registry
from harness.errors import ConfigError, DetmodesError
from harness.evaluate import Measurement, measure
from harness.protocols import Adapter, Benchmark, Predictor
from harness.records import CategoryInfo, CellInfo, Record
from harness.suite import Cell, NamedModel, Suite, cells
from harness.train import heldout_nll, prepare, train

PACKAGES = (
    "torch",
    "transformers",
    "open_flamingo",
    "open_clip_torch",
    "hotcoco",
    "lvis",
    "numpy",
    "accelerate",
)
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


@dataclass(slots=True)
class Context:
    """What all cells of a run share."""

    suite: Suite
    benchmark: Benchmark
    accelerator: Accelerator
    watch: Watch = field(default_factory=Silence)


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
    chosen = [item for item in planned if only is None or fnmatch.fnmatch(item.cell.id, only)]
    if not chosen:
        raise ConfigError(f"--only {only!r}: matches none of: {', '.join(item.cell.id for item in planned)}")
    return chosen


def run(context: Context, output: Path, only: str | None = None) -> list[Record]:
    """Runs what is not finished yet; returns a record for every planned cell, failed ones included."""
    (output / "cells").mkdir(parents=True, exist_ok=True)
    records.write_text(output / "suite.json", context.suite.model_dump_json(indent=1) + "\n")
    everything = plan(context, output)
    records.write_text(output / "cells.json", json.dumps([item.digest for item in everything], indent=1) + "\n")
    chosen = plan(context, output, only)
    done = []
    for index, item in enumerate(chosen, 1):
        finished = _finished(item)
        context.watch.cell(item.cell, index, len(chosen), "cached" if finished else "running")
        record = finished or _run_cell(context, item)
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


def _finished(item: Planned) -> Record | None:
    try:
        record = records.read(item.folder)
    except DetmodesError:
        return None
    return record if record.status == "finished" and record.digest == item.digest else None


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
    _reset_peak_memory(context)
    torch.manual_seed(cell.seed)
    predictor = build(context, cell.model)
    examples, heldout = context.benchmark.split("train"), context.benchmark.split("calibration")
    measured: list[Measurement] = []
    timings = {"train": 0.0, "evaluate": 0.0}
    curve: list[dict[str, Any]] = []
    threshold = None

    def evaluate(step: int) -> None:
        started = time.perf_counter()
        nll = heldout_nll(predictor, heldout) if isinstance(predictor, Adapter) else None
        images = len(context.benchmark.split("val"))
        counter = _Counter(context.watch, f"evaluate at {step}", images)
        measured.append(measure(predictor, context.benchmark, suite.sample, suite.score, cell.seed, step, nll, counter))
        if suite.keep == "all" and isinstance(predictor, Adapter) and cell.role == "trained":
            predictor.save(work / f"model-step{step}.safetensors")
        timings["evaluate"] += time.perf_counter() - started

    if cell.objective is None:
        evaluate(0)
    else:
        if not isinstance(predictor, Adapter):
            raise ConfigError(f"model {cell.model.name}: cannot be fine-tuned, it has no logits")
        base = build(context, cell.model)
        assert isinstance(base, Adapter)
        started = time.perf_counter()
        objective = prepare(cell.objective.name, cell.objective.settings, base, heldout, suite.train, cell.seed)
        threshold = objective.threshold
        curve = train(
            predictor,
            examples,
            objective,
            suite.train,
            cell.seed,
            context.accelerator,
            evaluate,
            lambda step, loss: context.watch.work("train", step, suite.train.steps, f"loss {loss:.3f}"),
        )
        timings["train"] = time.perf_counter() - started - timings["evaluate"]
        if suite.keep != "none":
            predictor.save(work / "model.safetensors")

    for name in records.TABLES:
        frame = pd.concat([measurement.tables[name] for measurement in measured], ignore_index=True)
        frame.to_parquet(work / f"{name}.parquet", compression="zstd", index=False)
    last = measured[-1]
    return _record(
        context,
        item,
        status="finished",
        threshold=threshold,
        image_ids=tuple(example.image_id for example in context.benchmark.split("val")),
        evaluator={"engine": last.evaluation.engine, "version": last.evaluation.version},
        score_source=last.score_source,
        evaluations=tuple(measurement.info for measurement in measured),
        curve=tuple(curve),
        timings=timings,
        peak_memory_mib=_peak_memory(context),
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
            CategoryInfo(id=category.id, names=category.names, frequency=category.frequency)
            for category in context.benchmark.categories
        ),
        data=context.benchmark.describe(),
        model=item.info.model,
        code=code_version(),
        packages=package_versions(),
        device=_device(context),
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
        train=context.suite.train.model_dump(mode="json") if objective is not None else None,
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


# ---- provenance --------------------------------------------------------------------------------------------------


def code_version() -> dict[str, Any]:
    """Version, and commit and whether tracked files differ from it, where the code is a git checkout."""
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD") if (root / ".git").exists() else None
    dirty = None if commit is None else bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"version": __version__, "commit": commit, "dirty": dirty}


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device(context: Context) -> dict[str, Any]:
    device = context.accelerator.device
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "precision": "bf16 autocast"}
    return {
        "type": "cpu",
        "name": platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": "float32",
    }


def _reset_peak_memory(context: Context) -> None:
    if context.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_memory(context: Context) -> float:
    """MiB: allocated on the GPU by this cell; on a CPU the process's peak so far, earlier cells included."""
    if context.accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- what a run will cost ------------------------------------------------------------------------------------------


def estimate(
    context: Context, planned: Sequence[Planned], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds that each planned cell will take: the speed of two training steps and one generated batch of
    its model on this machine, times the amount of work. 0 for a finished one."""
    speeds: dict[str, tuple[float, float]] = {}
    costs = []
    for item in planned:
        key = item.cell.model.model_dump_json()
        if key not in speeds:
            speeds[key] = _speeds(context, item.cell.model, clock)
        per_step, per_image = speeds[key]
        evaluations = 1 if item.cell.objective is None else len(context.suite.train.evaluations)
        steps = 0 if item.cell.objective is None else context.suite.train.steps
        cost = steps * per_step + evaluations * per_image * len(context.benchmark.split("val"))
        costs.append(0.0 if _finished(item) else cost)
    return costs


def _speeds(context: Context, model: NamedModel, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds per training step and per generated image, each after one untimed warm-up."""
    predictor = build(context, model)
    suite = context.suite
    batch = context.benchmark.split("val")[: suite.sample.batch_images]
    temperatures = [0.0, *[suite.sample.temperature] * suite.sample.samples]

    def generate() -> None:
        predictor.generate(batch, temperatures, 0, suite.sample.max_tokens, suite.sample.grammar)

    per_image = _timed(generate, clock) / len(batch)
    if not isinstance(predictor, Adapter):
        return 0.0, per_image
    examples = context.benchmark.split("train")
    steps = suite.train.model_copy(update={"steps": 1, "eval_at": ()})
    objective = prepare("ce", {}, predictor, (), steps, 0)

    def step() -> None:
        assert isinstance(predictor, Adapter)
        train(predictor, examples, objective, steps, 0, context.accelerator, lambda step: None)

    return _timed(step, clock), per_image


def _timed(action: Callable[[], None], clock: Callable[[], float]) -> float:
    action()
    started = clock()
    action()
    return clock() - started
