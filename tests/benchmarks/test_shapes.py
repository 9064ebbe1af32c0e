"""The embedded set: the same bytes every time, and boxes, names and fields as real LVIS has them."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import shapes, shapes_pictures
from benchmarks.shapes import Shapes, render_set
from benchmarks.shapes_pictures import SPLITS, ShapesSettings
from harness.errors import ConfigError
from harness.system import files

TINY = ShapesSettings(domain="plain", train_images=6, val_images=4, calibration_images=2)
both_domains = pytest.mark.parametrize("domain", ["plain", "cluttered"])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def document(folder: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{split}.json").read_text())
    return content


# ---- the set on disk -----------------------------------------------------------------------------------------


@both_domains
def test_rendering_twice_gives_the_same_bytes(tmp_path: Path, domain: shapes_pictures.Domain) -> None:
    settings = replace(TINY, domain=domain)
    first, second = (render_set(settings, tmp_path / root) for root in ("a", "b"))
    assert first.name == second.name
    assert content(first) == content(second)
    assert len(content(first)) == 6 + 4 + 2 + len(SPLITS) + 1  # images, annotations, digest


def test_every_setting_changes_the_set(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "domain": "cluttered",
        "train_images": 7,
        "val_images": 5,
        "calibration_images": 3,
        "categories": 12,
        "min_objects": 4,
        "max_objects": 2,
        "size": 48,
        "seed": 1,
    }
    assert changes.keys() == asdict(TINY).keys()
    made = [render_set(replace(TINY, **{key: value}), tmp_path) for key, value in changes.items()]
    digests = {(folder / "digest").read_text() for folder in [render_set(TINY, tmp_path), *made]}
    assert len(digests) == len(changes) + 1


def test_a_set_that_is_intact_is_not_rendered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = render_set(TINY, tmp_path)
    monkeypatch.setattr(shapes, "_write_set", lambda settings, folder: pytest.fail("rendered again"))
    assert render_set(TINY, tmp_path) == folder


def flip_a_byte(folder: Path) -> None:
    image = folder / "val" / "000002.png"
    image.write_bytes(image.read_bytes()[:-20] + b"!" + image.read_bytes()[-19:])


def shorten_annotations(folder: Path) -> None:
    (folder / "train.json").write_text((folder / "train.json").read_text()[:-1])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an image changed": flip_a_byte,
    "an image gone": lambda folder: (folder / "train" / "000001.png").unlink(),
    "an image too many": lambda folder: (folder / "train" / "000099.png").write_bytes(b""),
    "annotations cut": shorten_annotations,
    "annotations gone": lambda folder: (folder / "calibration.json").unlink(),
    "digest gone": lambda folder: (folder / "digest").unlink(),
    "digest is no text": lambda folder: (folder / "digest").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_set_is_rendered_again(tmp_path: Path, damage: str) -> None:
    folder = render_set(TINY, tmp_path)
    whole = content(folder)
    DAMAGES[damage](folder)
    assert content(folder) != whole
    assert render_set(TINY, tmp_path) == folder
    assert content(folder) == whole
    assert list(tmp_path.iterdir()) == [folder]  # nothing half-made is left beside it


def test_a_set_that_another_process_finished_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, inodes = shapes._write_set, []

    def overtaken(settings: ShapesSettings, folder: Path) -> None:
        monkeypatch.setattr(shapes, "_write_set", write)
        inodes.append(render_set(settings, tmp_path).stat().st_ino)  # the other process, from start to end
        write(settings, folder)

    monkeypatch.setattr(shapes, "_write_set", overtaken)
    folder = render_set(TINY, tmp_path)
    assert [folder.stat().st_ino] == inodes
    assert shapes._intact(folder)
    assert list(tmp_path.iterdir()) == [folder]


def render_together(root: str, barrier: Any, queue: Any) -> None:
    barrier.wait()
    folder = render_set(TINY, Path(root))
    queue.put((str(folder), shapes._intact(folder)))


def test_two_processes_can_render_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    both = [context.Process(target=render_together, args=(str(tmp_path), barrier, queue)) for _ in range(2)]
    for process in both:
        process.start()
    rendered = [queue.get(timeout=120) for _ in both]
    for process in both:
        process.join()
    (folder,) = tmp_path.iterdir()
    assert rendered == [(str(folder), True)] * 2
    assert content(folder) == content(render_set(TINY, tmp_path / "alone"))


@both_domains
def test_a_larger_set_begins_with_the_smaller_ones_images(tmp_path: Path, domain: shapes_pictures.Domain) -> None:
    small = render_set(replace(TINY, domain=domain), tmp_path)
    large = render_set(replace(TINY, domain=domain, train_images=9, val_images=8), tmp_path)
    for split, count in (("train", 6), ("val", 4), ("calibration", 2)):
        for path in (small / split).iterdir():
            assert path.read_bytes() == (large / split / path.name).read_bytes()
        few, many = document(small, split), document(large, split)
        assert len(few["images"]) == count
        assert few["images"] == many["images"][:count]
        assert few["annotations"] == many["annotations"][: len(few["annotations"])]


def test_splits_have_no_image_in_common(tmp_path: Path) -> None:
    folder = render_set(replace(TINY, train_images=20, val_images=20, calibration_images=20), tmp_path)
    assert len({path.read_bytes() for path in folder.glob("*/*.png")}) == 60


def test_sets_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Shapes(asdict(TINY)).folder.parent == tmp_path / "cache" / "detmodes"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert files.cache_root() == tmp_path / "home" / ".cache" / "detmodes"


# ---- settings ------------------------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once() -> None:
    wrong = {"domain": "clutered", "train_imges": 3, "size": "64", "seed": True, "val_images": 0, "categories": 31}
    with pytest.raises(ConfigError) as caught:
        Shapes(wrong)
    problems = caught.value.problems
    expected = [
        "shapes.domain: expected plain or cluttered, got 'clutered'",
        "shapes.size: expected an integer from 32 to 1024, got '64'",
        "shapes.seed: expected an integer from 0 to 2147483647, got True",
        "shapes.val_images: expected an integer from 1 to 1000000, got 0",
        "shapes.categories: expected an integer from 1 to 30, got 31",
    ]
    assert [problem for problem in problems if "unknown" not in problem] == expected
    (unknown,) = (problem for problem in problems if "unknown" in problem)
    assert unknown.startswith("shapes: unknown setting 'train_imges', did you mean 'train_images'? available: ")
    assert Shapes.problems(wrong) == list(problems)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"min_objects": 3, "max_objects": 2}, "shapes.max_objects: expected at least min_objects 3, got 2"),
        ({"min_objects": 9, "max_objects": 8}, "shapes.min_objects: expected an integer from 0 to 8, got 9"),
        ({"min_objects": 0, "max_objects": 0}, "shapes.max_objects: expected an integer from 1 to 8, got 0"),
        ({"size": 31}, "shapes.size: expected an integer from 32 to 1024, got 31"),
        ({"calibration_images": -1}, "shapes.calibration_images: expected an integer from 0 to 1000000, got -1"),
        ({"seed": -1}, "shapes.seed: expected an integer from 0 to 2147483647, got -1"),
    ],
)
def test_ranges(setting: dict[str, object], problem: str) -> None:
    assert Shapes.problems(setting) == [problem]


def test_the_limits_are_good_settings() -> None:
    assert Shapes.problems({}) == []
    assert Shapes.problems({"min_objects": 0, "max_objects": 8, "size": 32, "calibration_images": 0}) == []
