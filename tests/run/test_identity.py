"""What identifies a cell beside its settings, and what its record says of how it was made."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness import extensions, records
from harness.run import runner
from harness.run.context import Context, open_context
from harness.run.identity import ChangedWarning
from harness.system.provenance import parts
from harness.system.provenance.memory import PeakMemory
from tests.support import small

MODULE = "their_adapter"


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an adapter that another package brings: one of ours, by another name."""
    path = tmp_path / "site" / f"{MODULE}.py"
    path.parent.mkdir()
    path.write_text("from model_zoo.flamingo.toy import OpenFlamingo as Theirs\n")
    monkeypatch.syspath_prepend(str(path.parent))
    points = [EntryPoint("theirs", f"{MODULE}:Theirs", "detmodes.adapters")]
    monkeypatch.setattr(
        extensions, "foreign_points", lambda kind: tuple(p for p in points if p.group == extensions.GROUPS[kind])
    )
    parts.digest_source.cache_clear()
    yield path
    parts.digest_source.cache_clear()


def with_their_model() -> Context:
    (model,) = small.mini_suite().model_dump(mode="json")["models"]
    return context(models=[model | {"name": "theirs", "label": "open_flamingo"}])


def context(**changes: Any) -> Context:
    return open_context(small.mini_suite(**changes), None, "cpu")


def base_cell(folder: Path) -> list[records.Record]:
    return [records.read_record(path) for path in sorted((folder / "cells").glob("*-base-*"))]


def test_a_part_that_has_changed_is_no_longer_cached_and_the_run_says_so(theirs: Path, tmp_path: Path) -> None:
    """What detmodes ships is identified by the commit, and has no part."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (first,) = runner.run(with_their_model(), tmp_path / "run", "*-base-*")
        runner.run(with_their_model(), tmp_path / "run", "*-base-*")
    part = first.parts["model theirs"]
    assert (part.reference, part.package, part.version) == (f"{MODULE}:Theirs", "unknown", "unknown")
    assert first.cell.parts == {"model theirs": part.source}
    assert len(base_cell(tmp_path / "run")) == 1
    theirs.write_text(theirs.read_text() + "# a change\n")
    parts.digest_source.cache_clear()
    with pytest.warns(ChangedWarning, match=r"base-s0: model theirs changed since .* it is computed again"):
        (again,) = runner.run(with_their_model(), tmp_path / "run", "*-base-*")
    assert again.digest != first.digest
    assert len(base_cell(tmp_path / "run")) == 2


def test_shipped_parts_and_rendered_pictures_leave_digests_alone() -> None:
    """As cells.json of a published suite has them."""
    for item in runner.plan(context(), Path("nowhere")):
        assert not {"pictures", "parts"} & item.info.model_dump(mode="json").keys()


def test_the_record_says_seeds_and_precision(tmp_path: Path) -> None:
    base, ce = (runner.run(context(), tmp_path, f"*-{label}-*")[0] for label in ("base", "ce"))
    assert base.seeds == {"base": 0, "samples": 0}
    assert ce.seeds == {"base": 0, "training": 0, "samples": 0}
    assert base.precision == {"generation": "float32"}
    assert ce.precision == {"training": "float32", "generation": "float32"}
    (oracle,) = runner.run(context(), tmp_path, "oracle-uniform-*")
    assert oracle.precision == {}


def test_precision_is_what_ran_not_what_the_device_suggests(tmp_path: Path) -> None:
    """bf16 on a CPU: a record that only knew the device would say float32."""
    train = small.mini_suite().train.model_dump(mode="json") | {"precision": "bf16"}
    (ce,) = runner.run(context(train=train), tmp_path, "*-ce-*")
    assert ce.precision["training"] == "bf16 autocast"


# ---- memory ------------------------------------------------------------------------------------------------------


def test_only_the_first_cell_of_a_process_has_a_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeakMemory, "_taken", False)
    first, second = runner.run(context(), tmp_path, "oracle-*")
    assert first.own_peak_mib is not None
    assert first.own_peak_mib > 50
    assert second.own_peak_mib is None
    assert first.peak_memory_mib is second.peak_memory_mib is None


def test_a_cell_that_another_process_began_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeakMemory, "_taken", False)
    (item,) = runner.plan(context(), tmp_path, "oracle-uniform-*")
    resume = records.layout.work(item.folder) / records.layout.RESUME
    (resume / "evaluation-of-earlier").mkdir(parents=True)
    (record,) = runner.run(context(), tmp_path, "oracle-uniform-*")
    assert record.own_peak_mib is None
    shutil.rmtree(item.folder)


def data_set(folder: Path) -> Path:
    """Four images of 32 pixels a side, each with a cat, in files of LVIS's format."""
    (folder / "images").mkdir(parents=True)
    for split, ids in (("train", (1, 2)), ("val", (3, 4))):
        fields = {"width": 32, "height": 32, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        boxes = [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0} for i in ids
        ]
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", **fields} for i in ids],
            "annotations": boxes,
            "categories": [{"id": 1, "name": "cat", "synonyms": ["cat", "kitty"], "frequency": "f"}],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))
        for i in ids:
            Image.new("RGB", (32, 32), (20 * i, 0, 0)).save(folder / "images" / f"{i}.png")
    return folder


def test_pictures_that_have_changed_under_a_finished_cell_are_told_in_one_line(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    files = {"train": "train.json", "val": "val.json", "images": "images", "calibration_images": 0}
    suite = small.mini_suite(benchmark={"name": "lvis", **files})

    def base() -> records.Record:
        (record,) = runner.run(open_context(suite, data, "cpu"), tmp_path / "run", "*-base-*")
        return record

    with warnings.catch_warnings():
        warnings.simplefilter("error", ChangedWarning)
        first = base()
        assert base().digest == first.digest
    Image.new("RGB", (32, 32), (0, 99, 0)).save(data / "images" / "4.png")  # of the same size
    with pytest.warns(ChangedWarning) as caught:
        assert base().digest != first.digest
    (told,) = (str(warning.message) for warning in caught if warning.category is ChangedWarning)
    assert told.startswith("open_flamingo-base-s0: the pictures of val changed since open_flamingo-base-s0-")
    assert told.endswith(" was computed: it is computed again")
