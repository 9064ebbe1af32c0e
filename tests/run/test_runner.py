"""Runs: every cell leaves a record, tables and what is stored beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness import records
from harness.errors import ConfigError
from harness.inference.device import accelerator_on
from harness.records import gallery
from harness.run import runner
from harness.system.provenance.versions import PACKAGES
from tests.run.mini_runs import cell_folder, context
from tests.support import small

# ---- a run -------------------------------------------------------------------------------------------------------


def test_every_cell_leaves_a_finished_record_with_its_files(finished: Path) -> None:
    recorded = {path.name: records.read_record(path) for path in (finished / "cells").iterdir()}
    assert sorted(recorded) == sorted(p.folder.name for p in runner.plan(context(), finished))
    for name, record in recorded.items():
        assert (record.status, record.error) == ("finished", None)
        files = {path.name for path in (finished / "cells" / name).iterdir()}
        assert files == {records.RECORD, *record.files}
        assert {f"{table}.parquet" for table in records.TABLES} <= files
        records.verify_files(record, finished / "cells" / name, list(record.files))
        assert record.digest == records.digest_of(record.cell)
        assert name.endswith(record.digest[:8])


def test_records_hold_what_identifies_a_result(finished: Path) -> None:
    base, ce, sed = (records.read_record(cell_folder(finished, label)) for label in ("base", "ce", "sed"))
    assert (base.role, base.steps, base.curve, base.cell.train) == ("base", (0,), (), None)
    assert (ce.role, ce.steps, ce.threshold) == ("trained", (2, 3), None)
    assert [row["step"] for row in ce.curve] == [1, 3]
    assert (base.collision_rate, ce.collision_rate) == (None, 0.0)  # 3 batches of 4 of the 24 images
    assert sed.threshold is not None
    assert 0 < sed.threshold < 1
    assert sed.cell.objective == {
        "name": "sed_sft",
        "top_k": 5,
        "quantile": 0.5,
        "weight": 5.0,
        "mask": "base",
    }
    assert ce.score_source == "category"
    assert ce.image_ids == tuple(e.image_id for e in small.benchmark().split("val"))
    assert [c.id for c in ce.categories] == [c.id for c in small.benchmark().categories]
    assert ce.data == small.benchmark().describe()
    assert ce.evaluator["engine"] == "hotcoco"
    assert ce.device["type"] == "cpu"
    assert set(ce.packages) == {"python", *PACKAGES}
    assert "not installed" not in ce.packages.values()
    assert set(ce.code) == {"version", "commit", "dirty"}
    assert set(ce.timings) == {"train", "waiting", "evaluate", "probe"}
    assert ce.evaluations[0].heldout_nll != ce.evaluations[1].heldout_nll


def test_tables_hold_every_evaluation_and_sample(finished: Path) -> None:
    """12 images, 1 + 2 answers, evaluated after steps 2 and 3."""
    samples = pd.read_parquet(cell_folder(finished, "ce") / "samples.parquet")
    assert len(samples) == 2 * 12 * 3
    assert samples["step"].unique().tolist() == [2, 3]


def test_a_row_may_be_trained_otherwise_and_is_probed(tmp_path: Path) -> None:
    changes = {
        "objectives": ["ce", {"name": "ce", "label": "sets", "train": {"targets": "all(2)", "batching": "grouped"}}],
        "train": {"steps": 3, "batch_size": 4, "probe": {"every": 2, "images": 4}},
    }
    made = context(**changes)
    runner.run(made, tmp_path, only="open_flamingo-*")
    ce, sets = (records.read_record(cell_folder(tmp_path, label)) for label in ("ce", "sets"))
    assert ce.cell.train is not None
    assert sets.cell.train == ce.cell.train | {"targets": "all(2)", "batching": "grouped"}
    assert (ce.collision_rate, sets.collision_rate) == (0.0, 1.0)
    assert [row["step"] for row in ce.probe] == [0, 2, 3]
    assert ce.probe[0] == sets.probe[0]  # both start from the base
    assert ce.probe[-1] != sets.probe[-1]
    trained = Counter(c for e in small.benchmark().split("train") for c in {i.category_id for i in e.instances})
    assert {c.id: c.train_images for c in ce.categories if c.train_images} == trained


def test_probing_does_not_change_what_is_trained(finished: Path, tmp_path: Path) -> None:
    train = {**small.mini_suite().train.model_dump(mode="json"), "probe": {"every": 1, "images": 2}}
    runner.run(context(train=train), tmp_path, only="*-ce-*")
    same = [
        records.read_record(cell_folder(folder, "ce")).files["model.safetensors"] for folder in (finished, tmp_path)
    ]
    assert same[0] == same[1]


def test_the_gallery_is_written_with_the_cells(finished: Path) -> None:
    shown = gallery.read_gallery(finished)
    assert shown is not None
    assert len(shown.pictures) == 6
    answers = gallery.samples_by_image(pd.read_parquet(cell_folder(finished, "ce") / records.GALLERY), "gallery")
    assert {picture.image_id for picture in shown.pictures} == answers.keys()
    assert all(answer.samples == 2 for answer in answers.values())


def test_objectives_share_the_base_but_not_the_result(finished: Path) -> None:
    losses = {
        label: [row["loss"] for row in records.read_record(cell_folder(finished, label)).curve]
        for label in ("ce", "sed")
    }
    assert losses["ce"] != losses["sed"]
    weights = {label: records.read_record(cell_folder(finished, label)).files["model.safetensors"] for label in losses}
    assert weights["ce"] != weights["sed"]
    assert "model.safetensors" not in records.read_record(cell_folder(finished, "base")).files


# ---- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("none", set()),
        ("last", {"model.safetensors"}),
        ("all", {"model.safetensors", "model-step1.safetensors", "model-step2.safetensors"}),
    ],
)
def test_keep(keep: str, expected: set[str], tmp_path: Path) -> None:
    train = {"steps": 2, "batch_size": 2, "eval_at": [1]}
    (record,) = runner.run(context(keep=keep, train=train), tmp_path, "*-ce-*")
    assert {name for name in record.files if name.endswith(".safetensors")} == expected
    if keep == "all":
        assert record.files["model-step2.safetensors"] == record.files["model.safetensors"]
        assert record.files["model-step1.safetensors"] != record.files["model.safetensors"]


# ---- devices -----------------------------------------------------------------------------------------------------


def test_without_cuda_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ConfigError, match="--device cuda: no CUDA device here"):
        accelerator_on("cuda")
    assert accelerator_on("auto").device.type == "cpu"
