"""The suite `photos` end to end on real photographs, for a few steps; skipped where they are not at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from harness.run import runner
from harness.run.context import open_context
from harness.suite import cells, load, schema


def test_photos_run_end_to_end(shared: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared("data/coco128-lvis")
    shipped = load.load("photos")
    benchmark = {**shipped.benchmark.model_dump(), "train_images": 4, "val_images": 3, "calibration_images": 3}
    short = shipped.model_copy(
        update={
            "benchmark": schema.NamedBenchmark.model_validate(benchmark),
            "seeds": (0,),
            "train": shipped.train.model_copy(update={"steps": 2, "batch_size": 2, "eval_at": (1,)}),
            "sample": shipped.sample.model_copy(update={"samples": 2, "max_tokens": 12}),
        }
    )
    records = runner.run(open_context(short, data, "cpu"), tmp_path)
    assert [(record.status, record.error) for record in records] == [("finished", None)] * len(records)
    assert [record.label for record in records] == cells.rows(shipped)
    assert {record.label: record.steps for record in records if record.role == "trained"} == {
        objective.label: (1, 2) for objective in shipped.objectives
    }
    assert all(record.model["bins"] == 1000 for record in records)
    for record, item in zip(records, runner.plan(open_context(short, data, "cpu"), tmp_path), strict=True):
        samples = pd.read_parquet(item.folder / "samples.parquet")
        assert len(samples) == 3 * 3 * len(record.steps)
    collapsed = records[-1].evaluations[0]
    assert collapsed.metrics["AP"] is not None
    assert collapsed.metrics["AP"] > 0.99  # 1,000 bins lose next to nothing on photographs
    assert collapsed.diversity["recall"] == 1.0
    assert collapsed.diversity["normalised_name_diversity"] in (0.0, None)
