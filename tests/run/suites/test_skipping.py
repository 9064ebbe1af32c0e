"""Pictures that cannot be read: `images: fail` names the first one in the record, `images: skip` does without them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.lvis import Lvis
from harness import images, registry
from harness.errors import ConfigError, DataError
from harness.protocols import Benchmark, LeavesOut
from harness.records import Record
from harness.report.renderers import text
from harness.run import runner, task
from harness.run.context import Context, open_context
from harness.run.task import without_unreadable
from harness.types import Detection, Example
from tests.benchmarks.documents import annotation, category, document, image, write
from tests.support import small

BOX = (10.0, 10.0, 20.0, 20.0)
TRAIN, VAL = range(1, 6), range(6, 10)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five training and four validation pictures of 64 x 48 pixels with one object each."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for split, ids in (("train", TRAIN), ("val", VAL)):
        pictures = [image(i, width=64, height=48) for i in ids]
        objects = [annotation(i, i, 1 + i % 2, *BOX) for i in ids]
        write(folder / f"{split}.json", document(pictures, objects, [category(1, "cat"), category(2, "dog", "hound")]))
        for i in ids:
            noise = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "images" / f"{i}.jpg")
    return folder


def damage(data: Path) -> None:
    """2 is cut off, 7 is a text, 9 has another size."""
    cut, text, turned = (data / "images" / f"{i}.jpg" for i in (2, 7, 9))
    cut.write_bytes(cut.read_bytes()[:500])
    text.write_text("404 not found")
    Image.new("RGB", (48, 64)).save(turned)


def ids(benchmark: Benchmark, split: str) -> list[int]:
    return [example.image_id for example in benchmark.split(split)]


def test_unreadable_images_are_left_out_of_splits_and_figures(data: Path) -> None:
    damage(data)
    whole = Lvis({}, data)
    progress: list[tuple[int, int]] = []
    rest, left_out = without_unreadable(whole, lambda done, total: progress.append((done, total)))
    assert progress == [(k, 9) for k in range(1, 10)]
    assert left_out == {"train": {"unreadable": 1}, "val": {"unreadable": 2}}
    assert (ids(rest, "train"), ids(rest, "val"), ids(rest, "calibration")) == ([1, 3, 4, 5], [6, 8], [])
    assert rest.describe()["left_out"] == {"train": [2], "val": [7, 9]}
    assert rest.describe()["counts"]["val"] == {"images": 2, "instances": 2}  # type: ignore[index]
    right = [Detection(e.image_id, i.category_id, i.box, 0.9) for e in rest.split("val") for i in e.instances]
    assert rest.evaluate("val", right).metrics["AP"] == 1.0
    assert rest.match("val", right).n_images == 2
    assert whole.evaluate("val", right).metrics["AP"] != 1.0  # half of its objects are missed
    assert (ids(whole, "val"), whole.describe().get("left_out")) == (list(VAL), None)


@pytest.mark.parametrize("kind", ["lvis", "shapes"])
def test_where_every_image_is_good_nothing_changes(data: Path, kind: str) -> None:
    """Not even what identifies a cell: `skip` has skipped nothing."""
    benchmark = Lvis({}, data) if kind == "lvis" else small.benchmark()
    assert isinstance(benchmark, LeavesOut)
    assert without_unreadable(benchmark) == (benchmark, {})
    same = benchmark.without({})
    assert same.describe() == benchmark.describe()
    fewer = benchmark.without({"val": ids(benchmark, "val")[:1]})
    assert fewer.describe() == {**fewer.describe(), "left_out": {"val": ids(benchmark, "val")[:1]}}
    assert len(fewer.split("val")) == len(benchmark.split("val")) - 1


def test_a_split_of_which_nothing_is_left_is_an_error(data: Path) -> None:
    for i in VAL:
        (data / "images" / f"{i}.jpg").write_bytes(b"")
    expected = (
        r"val\.json: expected at least one readable image in the split val; the first that was left out: .*6\.jpg"
    )
    with pytest.raises(DataError, match=expected):
        without_unreadable(Lvis({}, data))


def test_missing_pictures_are_left_out_too(data: Path) -> None:
    damage(data)
    for i in (1, 6):
        (data / "images" / f"{i}.jpg").unlink()
    with pytest.raises(DataError, match=r"image not found: .*1\.jpg \(1 of 5 missing\)"):
        registry.benchmark("lvis", {}, data)
    rest, left_out = without_unreadable(registry.benchmark("lvis", {}, data, every_picture=False))
    assert left_out == {"train": {"missing": 1, "unreadable": 1}, "val": {"missing": 1, "unreadable": 2}}
    assert rest.describe()["left_out"] == {"train": [1, 2], "val": [6, 7, 9]}


def test_a_second_time_no_picture_is_decoded_again_unless_it_has_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that was damaged; one that came back is."""
    damage(data)
    lost = data / "images" / "1.jpg"
    good = lost.read_bytes()
    lost.unlink()
    age(data)
    first = without_unreadable(Lvis({}, data))[1]
    judged: list[int] = []

    def problem(example: Example) -> str:
        judged.append(example.image_id)
        return images.problem(example)

    monkeypatch.setattr(task, "images", SimpleNamespace(problem=problem, READER=images.READER))
    assert without_unreadable(Lvis({}, data))[1] == first
    assert judged == [1]  # it might be there by now
    lost.write_bytes(good)
    (data / "images" / "3.jpg").write_bytes(b"")
    assert without_unreadable(Lvis({}, data))[1]["train"] == {"unreadable": 2}
    assert sorted(judged) == [1, 1, 3]


def age(data: Path) -> None:
    """What was written just now might be written once more, and is not remembered."""
    for path in (data / "images").iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))


class Fixed:
    """A benchmark that has no `without`."""

    def __getattr__(self, name: str) -> Any:
        if name == "without":
            raise AttributeError(name)
        return getattr(small.benchmark(), name)


def test_a_benchmark_that_cannot_leave_images_out_says_so() -> None:
    with pytest.raises(ConfigError, match="images: skip: the benchmark shapes cannot leave images out"):
        without_unreadable(Fixed())


# ---- in a suite --------------------------------------------------------------------------------------------------


def context(data: Path, policy: str) -> Context:
    benchmark: Mapping[str, Any] = {"name": "lvis"}
    train = {"steps": 2, "batch_size": 5, "warm_up": 0}
    suite = small.mini_suite(benchmark=benchmark, objectives=["ce"], train=train, images=policy)
    return open_context(suite, data, "cpu")


def run(context: Context, output: Path) -> Record:
    (record,) = runner.run(context, output, "*-ce-*")
    return record


def test_fail_names_the_picture_and_skip_goes_on_without_it(data: Path, tmp_path: Path) -> None:
    cut = data / "images" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[:500])
    failed = run(context(data, "fail"), tmp_path / "out")
    assert failed.status == "failed"
    assert (failed.error or "").startswith(f"DataError: {cut}: expected a readable image, got: ")
    finished = run(context(data, "skip"), tmp_path / "out")
    assert (finished.status, finished.error) == ("finished", None)
    assert finished.data["left_out"] == {"train": [2]}
    assert finished.digest != failed.digest
    shown = text.caption(text.load(tmp_path / "out"))
    assert "Pictures that cannot be read and were left out: 1 of train." in shown


def test_the_record_counts_what_is_missing(data: Path, tmp_path: Path) -> None:
    damage(data)
    (data / "images" / "1.jpg").unlink()
    finished = run(context(data, "skip"), tmp_path / "out")
    assert finished.left_out_pictures == {"train": {"missing": 1, "unreadable": 1}, "val": {"unreadable": 2}}
    shown = text.caption(text.load(tmp_path / "out"))
    assert "Pictures that cannot be read and were left out: 2 of train (1 missing), 2 of val." in shown


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"images: Input should be 'fail' or 'skip', got 'ignore'"):
        small.mini_suite(images="ignore")
