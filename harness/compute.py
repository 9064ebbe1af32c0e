"""One cell, from its base to its record."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness import provenance, records
from harness.batches import collision_rate
from harness.context import Context, Planned, Watch, build
from harness.errors import ConfigError
from harness.evaluate import Measurement, gallery_frame, measure
from harness.probe import probe
from harness.protocols import Adapter
from harness.records import CategoryInfo, Record
from harness.teacher import heldout_nll
from harness.train import batches, prepare, train


def compute(context: Context, item: Planned, work: Path) -> Record:
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
    return record_of(
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
        device=provenance.describe_device(context.accelerator.device),
        **fields,
    )


class _Counter:
    """Adds up finished images for the watch."""

    def __init__(self, watch: Watch, kind: str, total: int) -> None:
        self._watch, self._kind, self._total, self._done = watch, kind, total, 0

    def __call__(self, images: int) -> None:
        self._done += images
        self._watch.work(self._kind, self._done, self._total)
