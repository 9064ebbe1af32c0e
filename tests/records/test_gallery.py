"""Pictures and index of the gallery, and what the samples of a cell said about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.shapes import Shapes
from harness.errors import DataError
from harness.records import gallery
from harness.records.gallery import Picture, ShownMention, ShownObject, ShownSamples
from harness.types import Box, Category, Example, Instance

ONE, TWO = Category(1, ("star",), None), Category(2, ("disc", "circle"), None)


def example(image_id: int, categories: Sequence[int], path: Path = Path("none.png")) -> Example:
    """Instances of these categories in a row, 10 pixels apart."""
    instances = tuple(Instance(n + 1, category, Box(10.0 * n, 1, 8, 9)) for n, category in enumerate(categories))
    return Example(image_id, path, 640, 480, instances)


def folder_with(tmp_path: Path, size: tuple[int, int] = (640, 480)) -> Path:
    Image.fromarray(np.full((size[1], size[0], 3), 90, dtype=np.uint8)).save(tmp_path / "source.png")
    gallery.write_gallery(tmp_path, [example(7, [2, 1], tmp_path / "source.png")], [ONE, TWO])
    return tmp_path


def test_images_with_most_choices_are_chosen() -> None:
    """Of category 2, which alone has two names: none, two, one, two instances; the last image is crowded (9)."""
    made = [example(1, [1, 1, 1]), example(2, [2, 2]), example(3, [2]), example(4, [2, 1, 2]), example(5, [2] * 9)]
    assert [item.image_id for item in gallery.choose_pictures(made, [ONE, TWO], pictures=3)] == [2, 4, 3]
    assert [item.image_id for item in gallery.choose_pictures(made, [ONE, TWO])] == [2, 4, 3, 1, 5]
    again = gallery.choose_pictures(made, [ONE, TWO])
    assert gallery.choose_pictures(again, [ONE, TWO]) == again  # choosing from what was chosen changes nothing


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stored = gallery.read_gallery(folder_with(tmp_path))
    assert stored is not None
    objects = (ShownObject(name="disc", x=0, y=1, w=8, h=9), ShownObject(name="star", x=10, y=1, w=8, h=9))
    assert stored.pictures == (Picture(image_id=7, file="7.png", width=640, height=480, instances=objects),)
    with Image.open(tmp_path / "gallery" / "7.png") as picture:
        assert (picture.size, picture.mode) == ((320, 240), "RGB")


def test_small_pictures_keep_their_pixels_and_the_same_set_its_bytes(tmp_path: Path) -> None:
    shapes = Shapes({"train_images": 2, "val_images": 9, "calibration_images": 1})
    for place in ("a", "b"):
        gallery.write_gallery(tmp_path / place, shapes.split("val"), shapes.categories)
    stored = gallery.read_gallery(tmp_path / "a")
    assert stored is not None
    assert len(stored.pictures) == gallery.PICTURES
    sources = {item.image_id: item.path for item in shapes.split("val")}
    for picture in stored.pictures:
        with (
            Image.open(tmp_path / "a" / "gallery" / picture.file) as copy,
            Image.open(sources[picture.image_id]) as source,
        ):
            assert np.array_equal(np.asarray(copy), np.asarray(source))
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / x / "gallery").iterdir()} for x in "ab")
    assert a == b
    assert a.keys() == {"index.json", *(picture.file for picture in stored.pictures)}


def test_no_gallery_is_none(tmp_path: Path) -> None:
    assert gallery.read_gallery(tmp_path) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"width": 640', '"width": 0', r"index\.json: field pictures\.0\.width: .*greater than or equal to 1"),
        ('"7.png"', '"../../7.png"', r"index\.json: field pictures\.0\.file: "),
        ('"7.png"', '"8.png"', r"index\.json: names 8\.png, expected it beside the index"),
        ('"pictures"', '"photos"', r"index\.json: field pictures: Field required"),
        ("{", "", r"index\.json: field \(file\): Invalid JSON"),
    ],
)
def test_a_bad_index_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    index = folder_with(tmp_path) / "gallery" / "index.json"
    compact = gallery.Gallery.model_validate_json(index.read_text()).model_dump_json(indent=1)
    index.write_text(compact.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        gallery.read_gallery(tmp_path)
    assert "\n" not in str(caught.value)


def frame() -> pd.DataFrame:
    """Image 7: sample 0 says two things (position 1 comes first in the file), sample 1 nothing."""
    rows = [
        (7, 0, 1, "star", 1, 10.0, 1.0, 8.0, 9.0, False),
        (7, 0, 0, "disc", 2, 0.0, 1.0, 8.0, 9.0, True),
        (7, 1, None, None, None, None, None, None, None, False),
    ]
    made = pd.DataFrame(rows, columns=list(gallery.COLUMNS))
    return made.astype({"position": "Int64", "category_id": "Int64"})


def test_answers_are_in_order_and_silence_counts_as_a_sample() -> None:
    answers = (
        ShownMention(0, "disc", Box(0, 1, 8, 9), verified=True),
        ShownMention(0, "star", Box(10, 1, 8, 9), verified=False),
    )
    assert gallery.samples_by_image(frame(), "gallery") == {7: ShownSamples(2, answers)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.drop(columns=["x", "verified"]), "x, verified missing"),
        (lambda made: made.assign(sample=[0, 0, 2]), "image 7: expected a row of each of 3 samples"),
    ],
)
def test_a_bad_table_is_one_line(change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(DataError, match=rf"cell: gallery: .*{message}"):
        gallery.samples_by_image(change(frame()), "cell: gallery")
