"""Pictures that cannot be read: `images: fail` names the first one in the record, `images: skip` does without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.lvis import Lvis
from harness.errors import ConfigError, DataError
from harness.protocols import Benchmark, LeavesOut
from harness.records import Record
from harness.report.renderers import text
from harness.run import runner
from harness.run.context import Context, open_context
from harness.run.task import without_unreadable
from harness.types import Detection
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
        images = [image(i, width=64, height=48) for i in ids]
        objects = [annotation(i, i, 1 + i % 2, *BOX) for i in ids]
        write(folder / f"{split}.json", document(images, objects, [category(1, "cat"), category(2, "dog", "hound")]))
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
    seen: list[tuple[int, int]] = []
    rest = without_unreadable(whole, lambda done, total: seen.append((done, total)))
    assert seen == [(k, 9) for k in range(1, 10)]
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
    assert without_unreadable(benchmark) is benchmark
    same = benchmark.without({})
    assert same.describe() == benchmark.describe()
    fewer = benchmark.without({"val": ids(benchmark, "val")[:1]})
    assert fewer.describe() == {**fewer.describe(), "left_out": {"val": ids(benchmark, "val")[:1]}}
    assert len(fewer.split("val")) == len(benchmark.split("val")) - 1


def test_a_split_of_which_nothing_is_left_is_an_error(data: Path) -> None:
    for i in VAL:
        (data / "images" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"val\.json: expected at least one readable image in the split val"):
        without_unreadable(Lvis({}, data))


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


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"images: Input should be 'fail' or 'skip', got 'ignore'"):
        small.mini_suite(images="ignore")
