"""Which validation images are asked about: `val_ids` for all evaluations, `eval_images` for those before the last."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness import records
from harness.errors import ConfigError
from harness.records import Record
from harness.report.results import Key, Results, load
from harness.run import runner, task
from harness.run.context import Context, open_context
from tests.support import small

BENCHMARK = {"name": "shapes", **small.SETTINGS, "val_images": 8}
EARLY = {"steps": 3, "batch_size": 4, "eval_at": [2], "eval_images": 3}


def context(data: Path | None = None, **changes: Any) -> Context:
    return open_context(small.mini_suite(**{"benchmark": BENCHMARK, "objectives": ["ce"], **changes}), data, "cpu")


def val(opened: Context) -> list[int]:
    return [example.image_id for example in opened.benchmark.split("val")]


def early(opened: Context) -> list[int]:
    return [example.image_id for example in opened.early.split("val")]


# ---- eval_images -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early")
    shipped = [{"name": "open_flamingo"}]  # it emits mentions
    sample = {"samples": 2, "max_tokens": 30}
    made = runner.run(context(train={**EARLY, "max_objects": 1}, models=shipped, sample=sample), folder)
    assert [record.status for record in made] == ["finished"] * 4
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return load(run)


def test_early_images_are_nested_and_in_the_order_of_the_split() -> None:
    chosen = [early(context(train={**EARLY, "eval_images": number})) for number in range(1, 9)]
    for few, more in pairwise(chosen):
        assert set(few) < set(more)
        assert more == sorted(more, key=val(context()).index)
    assert chosen[-1] == val(context())
    assert chosen[2] != val(context())[:3]  # a permutation, not the first of the file


def test_more_early_images_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"train\.eval_images: expected at most the 8 validation images, got 9"):
        assert context(train={**EARLY, "eval_images": 9}).early


def test_the_early_step_has_the_early_images_and_the_last_one_all(results: Results) -> None:
    key = Key("open_flamingo", "ce", 0)
    record: Record = results.records[key]
    assert [(item.step, item.images) for item in record.evaluations] == [(2, 3), (3, None)]
    for name in ("images", "samples"):
        frame = pd.read_parquet(results.folders[key] / f"{name}.parquet")
        assert sorted(set(frame[frame["step"] == 2]["image_id"])) == sorted(early(context(train=EARLY)))
        assert set(frame[frame["step"] == 3]["image_id"]) == set(val(context()))
    base = results.records[Key("open_flamingo", "base", 0)]
    assert [item.images for item in base.evaluations] == [None]


def test_figures_of_an_early_step_are_those_of_its_images_alone(results: Results) -> None:
    """As they were computed when nothing but these images was there (AP is checked whenever points are read)."""
    key = Key("open_flamingo", "ce", 0)
    points, diversity = results.points(key, 2), results.records[key].evaluation(2).diversity
    for name in ("recall", "precision", "truncation_rate", "unique_sequences"):
        assert points[name] == pytest.approx(diversity[name])
    assert points["recall"] > 0
    replicates = results.replicates(key, 2)
    assert {len(values) for values in replicates.values()} == {1000}
    assert np.isfinite(replicates["truncation_rate"]).sum() > 900  # where any of the three images was drawn


def test_the_record_counts_the_objects_that_targets_leave_out(results: Results) -> None:
    numbers = [len(example.instances) for example in context().benchmark.split("train")]
    expected = {"images": sum(number > 1 for number in numbers), "objects": sum(numbers) - len(numbers)}
    assert min(numbers) >= 1
    assert results.records[Key("open_flamingo", "ce", 0)].left_out_objects == expected
    assert results.records[Key("open_flamingo", "base", 0)].left_out_objects is None


def test_eval_images_changes_the_digest_and_its_absence_does_not(tmp_path: Path) -> None:
    without = {name: value for name, value in EARLY.items() if name != "eval_images"}
    digests = [runner.plan(context(train=train), tmp_path, "*-ce-*")[0] for train in (without, EARLY)]
    assert digests[0].digest != digests[1].digest
    assert digests[0].info.train is not None
    assert not {"eval_images", "max_objects"} & digests[0].info.train.keys()


def test_all_rows_see_the_same_early_images() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.ce\.train\.eval_images: expected in the suite's train alone"):
        context(objectives=[{"name": "ce", "train": {"eval_images": 2}}])


def test_an_early_step_that_lacks_an_image_is_told(run: Path) -> None:
    made = load(run)
    key = Key("open_flamingo", "ce", 0)
    frame = pd.read_parquet(made.folders[key] / "images.parquet")
    record = made.records[key]
    some = frame[(frame["step"] == 2) & (frame["image_id"] != early(context(train=EARLY))[0])]
    with pytest.raises(ValueError, match="expected 3 of the record's images at step 2, got 2"):
        records.tables.tables(some, 2, 1.0, record)


# ---- val_ids ---------------------------------------------------------------------------------------------------------


def test_only_the_named_images_are_asked_about(tmp_path: Path) -> None:
    ids = val(context())
    (tmp_path / "mini.txt").write_text(f"{ids[4]}, {ids[1]}\n{ids[6]}\n")
    opened = context(data=tmp_path, val_ids="mini.txt")
    assert val(opened) == [ids[1], ids[4], ids[6]]
    assert opened.benchmark.describe()["val_ids"] == task.digest_of_ids([ids[1], ids[4], ids[6]])
    assert {k: v for k, v in opened.benchmark.describe().items() if k != "val_ids"} == context().benchmark.describe()
    assert opened.benchmark.split("train") == context().benchmark.split("train")
    few = context(data=tmp_path, val_ids="mini.txt", train={**EARLY, "eval_images": 2})
    assert set(early(few)) < set(val(opened))
    plans = [runner.plan(one, tmp_path, "*-base-*")[0].digest for one in (opened, context())]
    assert plans[0] != plans[1]


def test_captions_can_be_chosen_too(tmp_path: Path) -> None:
    ids = val(context())
    (tmp_path / "mini.txt").write_text(f"{ids[4]} {ids[1]} {ids[0]}")
    opened = context(
        data=tmp_path, val_ids="mini.txt", task="caption+boxes", train={**EARLY, "eval_images": 1}, objectives=["ce"]
    )
    assert val(opened) == [ids[0], ids[1], ids[4]]
    assert len(early(opened)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("999999999", "an id is of no validation image, such as 999999999"),
        ("888888888 999999999", "2 of 2 ids are of no validation image, such as 888888888"),
        ("one two", "expected image ids, whole numbers separated by white space"),
        ("", "expected image ids, found none"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_wrong_ids_are_refused_in_one_line(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "ids.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        context(val_ids=str(path))
    assert str(raised.value) == f"val_ids: {path}: {expected}"
