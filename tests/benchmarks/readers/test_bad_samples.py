"""One line for everything that is wrong with a file of samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.readers.annotations import Annotations
from harness.errors import DataError
from tests.benchmarks.documents import Document
from tests.benchmarks.readers.sample_files import DOG, cell, lines, load, named, row, rows


def refused(path: Path, annotations: Annotations, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        load(path, annotations, **options)
    text = str(error.value)
    assert text.startswith(str(path.parent))
    assert "\n" not in text
    return text.removeprefix(f"{path.parent}/").replace(f"{path.parent}/", "")


def edited(index: int, **fields: Any) -> list[Document]:
    content = rows()
    content[index] |= fields
    return content


MENTION = {"name": "dog", "bbox": DOG}
NATURAL = "expected an integer of at least 0, got"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (edited(1, image_id=8), "line 2: image_id: expected an image of annotations.json, got 8"),
        (edited(1, image_id=-1), f"line 2: image_id: {NATURAL} -1"),
        (edited(1, image_id="7"), f'line 2: image_id: {NATURAL} "7"'),
        (edited(1, sample=0.5), f"line 2: sample: {NATURAL} 0.5"),
        (edited(1, malformed=None), f"line 2: malformed: {NATURAL} null"),
        (edited(1, lenient=-2), f"line 2: lenient: {NATURAL} -2"),
        (edited(1, truncated=0), "line 2: truncated: expected true or false, got 0"),
        (edited(1, temperature="hot"), 'line 2: temperature: expected a number of at least 0, got "hot"'),
        (edited(1, temperature=-1), "line 2: temperature: expected a number of at least 0, got -1.0"),
        (edited(1, mentions={}), "line 2: mentions: expected a list of mentions, got {}"),
        (edited(1, mentions=["a dog"]), 'line 2: mentions[0]: expected a mention, {"name", "bbox", ...}, got a string'),
        (edited(1, mentions=[MENTION, MENTION | {"name": 5}]), "line 2: mentions[1].name: expected a string, got 5"),
        (edited(1, mentions=[MENTION | {"score": "0.5"}]), 'score: expected a number from 0 to 1, got "0.5"'),
        (
            edited(1, mentions=[named("x", 0), MENTION | {"score": 2}]),
            "line 2: mentions[1]: score: expected a number from 0 to 1, got 2.0",
        ),
        (edited(1, mentions=[MENTION | {"score": -0.1}]), "expected a number from 0 to 1, got -0.1"),
        (
            edited(1, mentions=[MENTION | {"score": float("nan")}]),
            "line 2: mentions[0]: score: expected a number from 0 to 1, got NaN",
        ),
        (edited(1, mentions=[MENTION | {"score": float("inf")}]), "expected a number from 0 to 1, got inf"),
        (
            edited(1, mentions=[{"category_id": 3, "bbox": DOG}]),
            "line 2: mentions[0]: category_id: expected a category of annotations.json, got 3",
        ),
        (
            edited(1, mentions=[MENTION | {"category_id": 1}]),
            "category_id: expected the category of its name, 'dog' (of category 2 in annotations.json), got 1",
        ),
        (edited(1, mentions=[named("x", category_id=1)]), "'x' (of no category in annotations.json), got 1"),
        ([*rows(), rows()[1]], "line 5: expected every sample once, got image_id 7, sample 1, temperature 1.0 again"),
        (rows()[:3], "image 3: expected K = 2 samples at temperature 1 as other images have, got 1"),
        (
            rows()[1:3],
            "image 3: expected K = 2 samples at temperature 1 as other images have, got 0 (cut the annotation "
            "file down to the images that were sampled)",
        ),
        (
            [*rows(), row(7, 0, temperature=2), row(3, 0, temperature=2)],
            "image 7: expected K = 2 samples at temperature 2 as other images have, got 1",
        ),
        (
            [*rows(), row(7, 8, temperature=0)],
            "image 3: expected one greedy answer (temperature 0) as other images have, got 0",
        ),
        (
            [*rows(), *(row(i, k, temperature=0) for i in (3, 7) for k in (0, 1))],
            "image 7: expected one greedy answer (temperature 0) as other images have, got 2",
        ),
        (
            [line | {"temperature": 0} for line in rows()],
            "expected samples of a temperature above 0 (0 is the greedy answer), got none",
        ),
        ([row(20, 0), row(30, 0)], "expected samples of the images of annotations.json, they have no image in common"),
        ([], "expected samples, got an empty file"),
    ],
)
def test_a_mistake_is_one_line(content: list[Document], problem: str, tmp_path: Path, annotations: Annotations) -> None:
    text = refused(lines(tmp_path, content), annotations)
    assert text.startswith("samples.jsonl: ")
    assert problem in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "samples.jsonl: expected samples, got an empty file"),
        ("\n \n", "samples.jsonl: expected samples, got an empty file"),
        ("nonsense", "samples.jsonl: line 1: not valid JSON, is the file complete?"),
        (json.dumps(rows()), 'line 1: expected one sample a line, {"image_id", "sample", "mentions", ...}, got a list'),
        (json.dumps(rows()[0])[:-5], "line 1: not valid JSON, is the file complete?"),
        ('{"sample": 1, "mentions": []}', 'line 1: has no "image_id"'),
        ('{"image_id": 7, "sample": 1}', 'line 1: has no "mentions"'),
        ("[" * 5000, "line 1: expected one sample a line"),
        ('{"image_id": 7, "sample": NaN, "mentions": []}', f"line 1: sample: {NATURAL} NaN"),
    ],
)
def test_text_that_is_no_sample(text: str, problem: str, tmp_path: Path, annotations: Annotations) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    assert problem in refused(path, annotations)


def test_the_temperature_must_be_one_of_the_file(tmp_path: Path, annotations: Annotations) -> None:
    path = lines(tmp_path, rows())
    assert "expected --temperature to be one of 1, got 0.7" in refused(path, annotations, temperature=0.7)


def test_places_that_are_no_samples(tmp_path: Path, annotations: Annotations) -> None:
    assert "expected a JSON Lines file, or the folder of a cell: No such file" in refused(
        tmp_path / "none", annotations
    )
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "expected a folder with samples.parquet and mentions.parquet, has no samples.parquet" in refused(
        folder, annotations
    )
    table = cell(tmp_path, rows()) / "samples.parquet"
    assert "expected a JSON Lines file, or the folder with samples.parquet" in refused(table, annotations)
    path = lines(tmp_path, rows())
    assert "expected the folder of a cell for --step, got a file" in refused(path, annotations, step=4)


@pytest.mark.parametrize(
    ("table", "change", "problem"),
    [
        ("samples", lambda f: f.drop(columns="sample"), 'samples.parquet: expected one column "sample", got none'),
        ("mentions", lambda f: f.drop(columns="w"), 'mentions.parquet: expected one column "w", got none'),
        (
            "mentions",
            lambda f: f.drop(columns="step"),
            'mentions.parquet: expected a column "step" as samples.parquet has',
        ),
        ("samples", lambda f: f.astype({"image_id": str}), "samples.parquet: column image_id: expected integers, got"),
        (
            "samples",
            lambda f: f.astype({"sample": float}),
            "samples.parquet: column sample: expected integers, got double",
        ),
        ("mentions", lambda f: f.assign(name=5), "mentions.parquet: column name: expected strings, got int64"),
        ("mentions", lambda f: f.assign(x="left"), "mentions.parquet: column x: expected numbers, got"),
        ("samples", lambda f: f.assign(malformed=-1), f"samples.parquet: row 0: malformed: {NATURAL} -1"),
        (
            "samples",
            lambda f: f.assign(temperature=[1.0, None, 1.0, 1.0]),
            "samples.parquet: row 1: temperature: expected a value, got null",
        ),
        (
            "samples",
            lambda f: pd.concat([f, f.iloc[1:2]]),
            "samples.parquet: row 4: expected one sample for each image_id, sample, got image 7, sample 1 again",
        ),
        (
            "samples",
            lambda f: f.iloc[:3].assign(image_id=[8, 7, 7]),
            "mentions.parquet: row 0: expected a sample of samples.parquet, got image 3, sample 5",
        ),
        ("samples", lambda f: f.iloc[:0], "samples.parquet: expected samples, got an empty table"),
        ("mentions", lambda f: f.assign(category_id=9), "mentions.parquet: row 0: category_id: expected a category of"),
        (
            "mentions",
            lambda f: f.assign(category_id=2),
            "mentions.parquet: row 2: category_id: expected the category of its name",
        ),
        (
            "mentions",
            lambda f: f.assign(name_score=1.5),
            "mentions.parquet: row 0: name_score: expected a number from 0 to 1, got 1.5",
        ),
    ],
)
def test_a_cell_with_a_mistake(
    table: str, change: Callable[[Any], Any], problem: str, tmp_path: Path, annotations: Annotations
) -> None:
    folder = cell(tmp_path, rows())
    change(pd.read_parquet(folder / f"{table}.parquet")).to_parquet(folder / f"{table}.parquet")
    assert problem in refused(folder, annotations)


OF_LISTS = [
    *(("samples", name) for name in ("image_id", "sample", "temperature", "step", "malformed", "truncated", "lenient")),
    *(("mentions", name) for name in ("image_id", "sample", "name", *"xywh", "step", "position", "category_id")),
    *(("mentions", name) for name in ("name_score",)),
]


@pytest.mark.parametrize(("table", "name"), OF_LISTS)
def test_lists_in_a_column_are_named(table: str, name: str, tmp_path: Path, annotations: Annotations) -> None:
    folder = cell(tmp_path, rows())
    frame = pd.read_parquet(folder / f"{table}.parquet")
    frame[name] = pd.Series([[value] for value in frame[name].tolist()], index=frame.index)
    frame.to_parquet(folder / f"{table}.parquet")
    assert f"{table}.parquet: column {name}: expected " in (problem := refused(folder, annotations))
    assert "got list<" in problem


def test_a_damaged_table(tmp_path: Path, annotations: Annotations) -> None:
    folder = cell(tmp_path, rows())
    content = (folder / "mentions.parquet").read_bytes()
    (folder / "mentions.parquet").write_bytes(content[:100] + content[160:])
    assert "mentions.parquet: expected a Parquet file: " in refused(folder, annotations)
