"""Samples files: what is read, what is counted as malformed or unknown, and one line for everything that is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.readers import samples, samples_jsonl
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.samples import Samples, vocabulary
from harness.errors import DataError
from harness.types import Category
from tests.benchmarks.documents import Document, annotation, category, document, image, loaded

SOFA, DOG = [10, 10, 100, 100], [10, 200, 50, 50]
TRUTH = document(
    [image(7), image(3)],
    [annotation(1, 7, 1, *SOFA), annotation(2, 3, 2, *DOG)],
    [category(1, "sofa_bed", "day_bed", "couch"), category(2, "dog")],
)
NAMES = ["sofa_bed", "day_bed", "couch", "dog"]
"""The vocabulary in the order of its codes."""


def row(image_id: int, sample: int, *mentions: Any, **fields: Any) -> Document:
    return {"image_id": image_id, "sample": sample, "mentions": list(mentions), **fields}


def named(name: str, bbox: Any = DOG, **fields: Any) -> Document:
    return {"name": name, "bbox": bbox, **fields}


def rows() -> list[Document]:
    """K = 2 samples of both images, not in order."""
    return [
        row(3, 5, named("dog", DOG, score=0.5), named("couch", SOFA)),
        row(7, 1, named("couch", SOFA, score=1)),
        row(7, 0, {"category_id": 1, "bbox": SOFA}, malformed=2, truncated=True, lenient=1),
        row(3, 9),
    ]


@pytest.fixture(name="annotations")
def truth(tmp_path: Path) -> Annotations:
    return loaded(tmp_path, TRUTH)


def lines(folder: Path, content: list[Document]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in content))
    return path


def load(path: Path, annotations: Annotations, **options: Any) -> Samples:
    return samples.load(path, annotations, annotations.categories, **options)


def cell(folder: Path, content: list[Document]) -> Path:
    """The same samples as a cell holds them: two Parquet files."""
    folder = folder / "cell"
    folder.mkdir(exist_ok=True)
    mentions = [
        {
            "step": 4,
            "image_id": line["image_id"],
            "sample": line["sample"],
            "position": position,
            "name": mention.get("name", "sofa_bed"),
            "category_id": 2 if mention.get("name") == "dog" else 1,
            **dict(zip("xywh", map(float, mention["bbox"]), strict=True)),
            "name_score": mention.get("score"),
            "category_score": None,
        }
        for line in content
        for position, mention in enumerate(line["mentions"])
    ]
    of_sample = [
        {"step": 4, "temperature": 1.0, "malformed": 0, "truncated": False, "lenient": 0}
        | {key: value for key, value in line.items() if key != "mentions"}
        for line in content
    ]
    pd.DataFrame(of_sample).to_parquet(folder / "samples.parquet")
    pd.DataFrame(mentions).astype({"name_score": float, "category_score": float}).to_parquet(
        folder / "mentions.parquet"
    )
    return folder


# ---- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [lines, cell])
def test_samples_become_columns(write: Callable[..., Path], tmp_path: Path, annotations: Annotations) -> None:
    """Images in the order of the annotations (7, 3), samples by ascending number, mentions as they were said."""
    samples = load(write(tmp_path, rows()), annotations)
    ((temperature, answers),) = samples.answers.items()
    assert (temperature, samples.count, samples.greedy) == (1.0, 2, None)
    mentions = answers.mentions
    np.testing.assert_array_equal(mentions.image, [0, 0, 1, 1])
    np.testing.assert_array_equal(mentions.sample, [0, 1, 0, 0])
    assert [NAMES[code] for code in mentions.name] == ["sofa_bed", "couch", "dog", "couch"]
    np.testing.assert_array_equal(mentions.category, [0, 0, 1, 0])
    np.testing.assert_array_equal(mentions.boxes, [SOFA, SOFA, DOG, SOFA])
    np.testing.assert_array_equal(mentions.score, [np.nan, 1.0, 0.5, np.nan])
    np.testing.assert_array_equal(answers.malformed, [[2, 0], [0, 0]])
    np.testing.assert_array_equal(answers.truncated, [[True, False], [False, False]])
    np.testing.assert_array_equal(answers.lenient, [[1, 0], [0, 0]])


def test_the_digests_are_those_of_the_files(tmp_path: Path, annotations: Annotations) -> None:
    for path in (lines(tmp_path, rows()), cell(tmp_path, rows())):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        expected = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        assert load(path, annotations).digests == expected


def test_many_lines_are_read_in_parts(
    tmp_path: Path, annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines(tmp_path, rows())
    whole = load(path, annotations).answers[1.0]
    monkeypatch.setattr(samples_jsonl, "CHUNK", 3)
    parts = load(path, annotations).answers[1.0]
    for column in ("image", "sample", "name", "category", "boxes", "score"):
        np.testing.assert_array_equal(getattr(whole.mentions, column), getattr(parts.mentions, column))


def test_empty_lines_and_other_keys_mean_nothing(tmp_path: Path, annotations: Annotations) -> None:
    content = [line | {"text": "a sofa", "mentions": [m | {"id": 1} for m in line["mentions"]]} for line in rows()]
    path = tmp_path / "s.jsonl"
    path.write_text("\n" + "\n \n".join(json.dumps(line) for line in content))
    assert len(load(path, annotations).answers[1.0].mentions) == 4


@pytest.mark.parametrize(
    ("key", "meant"),
    [("temperatur", "temperature"), ("Truncated", "truncated"), ("malformd", "malformed"), ("lenients", "lenient")],
)
def test_a_misspelled_field_is_refused(tmp_path: Path, annotations: Annotations, key: str, meant: str) -> None:
    """Its value would be overlooked: all samples would have the temperature 1."""
    content = [{name: v for name, v in line.items() if name != meant} | {key: 0.5} for line in rows()]
    with pytest.raises(DataError, match=rf"line 1: unknown field '{key}', did you mean '{meant}'\?"):
        load(lines(tmp_path, content), annotations)


@pytest.mark.parametrize(("key", "meant"), [("scor", "score"), ("box", "bbox"), ("categoryid", "category_id")])
def test_a_misspelled_field_of_a_mention_is_refused(
    tmp_path: Path, annotations: Annotations, key: str, meant: str
) -> None:
    """All of its boxes would be malformed, or without a score."""
    mention = {field: v for field, v in {"category_id": 5, "bbox": DOG, "score": 0.5}.items() if field != meant}
    content = [line | {"mentions": [named("dog"), {**mention, key: 1}]} for line in rows()]
    with pytest.raises(DataError, match=rf"line 1: mentions\[1\]: unknown field '{key}', did you mean '{meant}'\?"):
        load(lines(tmp_path, content), annotations)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"sample": 5', '"sample": 4, "sample": 5', "sample"),
        ('"mentions": [', '"mentions": [], "mentions": [', "mentions"),
        ('"name": "dog"', '"name": "cat", "name": "dog"', "name"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(
    tmp_path: Path, annotations: Annotations, old: str, new: str, key: str
) -> None:
    """The last would win: a trailing `"mentions": []` empties the sample."""
    path = lines(tmp_path, rows())
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=rf'samples.jsonl: line 1: expected a key once, got "?{key}"? again'):
        load(path, annotations)


def test_words_of_the_format_elsewhere_are_no_keys(tmp_path: Path, annotations: Annotations) -> None:
    content = [
        line | {"raw": {"sample": 1, "mentions": [], "name": "x"}, "tags": ["sample", "name"]} for line in rows()
    ]
    assert len(load(lines(tmp_path, content), annotations).answers[1.0].mentions) == 4


def test_a_field_that_only_resembles_one_that_is_there_means_nothing(tmp_path: Path, annotations: Annotations) -> None:
    """Pipelines keep the path of the picture, and how many samples they drew."""
    more = {"image": "1.jpg", "samples": 8, "mention": "", "text": "a dog", "latency": 0.2}
    content = [
        line | more | {"mentions": [m | {"category": "x", "scores": [0.1], "score": 0.5} for m in line["mentions"]]}
        for line in rows()
    ]
    assert len(load(lines(tmp_path, content), annotations).answers[1.0].mentions) == 4


def test_temperatures_are_kept_apart_and_zero_is_the_greedy_answer(tmp_path: Path, annotations: Annotations) -> None:
    hot = [line | {"temperature": 2} for line in rows()]
    greedy = [row(k, 0, named("dog"), temperature=0) for k in (3, 7)]
    path = lines(tmp_path, hot + greedy + rows())
    samples = load(path, annotations)
    assert list(samples.answers) == [1.0, 2.0]
    assert samples.count == 2
    assert samples.greedy is not None
    assert samples.greedy.malformed.shape == (2, 1)
    assert len(samples.greedy.mentions) == 2
    assert list(load(path, annotations, temperature=2.0).answers) == [2.0]
    assert load(path, annotations, temperature=2.0).greedy is not None


@pytest.mark.parametrize(
    "mention",
    [
        {"name": "dog"},
        *(named("dog", box) for box in (None, "no", 5, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, "3", 4], [1, 2, None, 4])),
        *(named("dog", box) for box in ([1, 2, 0, 4], [1, 2, 3, -4], [1, 2, True, 4], [[1], 2, 3, 4], {"x": 1})),
        *(named("dog", [1, 2, float(value), 4]) for value in ("nan", "inf", "-inf")),
        *(named("dog", [1, 2, 3, value]) for value in (10**400, 1e200)),
        {"bbox": DOG},
        {"bbox": DOG, "name": None, "category_id": None, "score": 0.5},
    ],
)
def test_what_is_no_name_with_a_box_is_malformed(mention: Document, tmp_path: Path, annotations: Annotations) -> None:
    content = rows()
    content[1]["mentions"].append(mention)
    answers = load(lines(tmp_path, content), annotations).answers[1.0]
    assert len(answers.mentions) == 4
    np.testing.assert_array_equal(answers.malformed, [[2, 1], [0, 0]])


def test_the_malformed_of_a_cell_are_counted_too(tmp_path: Path, annotations: Annotations) -> None:
    content = rows()
    content[0]["mentions"][1]["bbox"] = [1, 2, 0, 4]
    answers = load(cell(tmp_path, content), annotations).answers[1.0]
    assert len(answers.mentions) == 3
    np.testing.assert_array_equal(answers.malformed, [[2, 0], [1, 0]])


def test_names_are_spelt_as_in_the_annotations_or_with_spaces(tmp_path: Path, annotations: Annotations) -> None:
    """Two spellings of one name are one name; an unknown one has no category, but counts as a name of its own."""
    content = [row(7, 0, *map(named, ["sofa bed", "sofa_bed", "Sofa_bed", "sofa", "sofa"])), row(3, 0)]
    mentions = load(lines(tmp_path, content), annotations).answers[1.0].mentions
    np.testing.assert_array_equal(mentions.category, [0, 0, -1, -1, -1])
    assert mentions.name[0] == mentions.name[1] == 0
    assert mentions.name[3] == mentions.name[4] != mentions.name[2]
    assert min(mentions.name[2:]) >= len(NAMES)


def test_a_space_is_accepted_only_where_it_means_one_name() -> None:
    """ "hot dog" is a name of its own, and "a b c" could be both "a_b c" and "a b_c"."""
    categories = (
        Category(1, ("hot_dog", "a_b c"), "f"),
        Category(2, ("hot dog",), "f"),
        Category(3, ("a b_c", "x_y"), "f"),
    )
    accepted, category_of, first = vocabulary(categories)
    assert accepted == {"hot_dog": 0, "a_b c": 1, "hot dog": 2, "a b_c": 3, "x_y": 4, "x y": 4}
    np.testing.assert_array_equal(category_of, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(first, [0, 2, 3])


def test_a_cell_says_itself_which_names_it_did_not_know(tmp_path: Path, annotations: Annotations) -> None:
    folder = cell(tmp_path, rows())
    mentions = pd.read_parquet(folder / "mentions.parquet").astype({"category_id": "Int64"})
    mentions.loc[0, "category_id"] = pd.NA  # the dog of image 3
    mentions.to_parquet(folder / "mentions.parquet")
    np.testing.assert_array_equal(load(folder, annotations).answers[1.0].mentions.category, [0, 0, -1, 0])


def test_the_last_step_of_a_cell_is_read_unless_another_is_wanted(tmp_path: Path, annotations: Annotations) -> None:
    folder = cell(tmp_path, rows())
    for name in ("samples", "mentions"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        early = frame.assign(step=2)
        if name == "mentions":
            early = early.iloc[:1]
        pd.concat([frame, early]).to_parquet(folder / f"{name}.parquet")
    assert (load(folder, annotations).step, len(load(folder, annotations).answers[1.0].mentions)) == (4, 4)
    assert (load(folder, annotations, step=2).step, len(load(folder, annotations, step=2).answers[1.0].mentions)) == (
        2,
        1,
    )
    with pytest.raises(DataError, match=r"samples\.parquet: expected --step to be one of 2, 4, got 3"):
        load(folder, annotations, step=3)


def test_the_score_of_a_category_goes_before_that_of_its_name(tmp_path: Path, annotations: Annotations) -> None:
    folder = cell(tmp_path, rows())
    mentions = pd.read_parquet(folder / "mentions.parquet")
    mentions["name_score"] = [0.1, 0.2, 0.3, None]
    mentions["category_score"] = [0.9, None, None, None]  # dog and couch of image 3, couch, sofa_bed of image 7
    mentions.to_parquet(folder / "mentions.parquet")
    np.testing.assert_array_equal(load(folder, annotations).answers[1.0].mentions.score, [np.nan, 0.3, 0.9, 0.2])


def test_mentions_of_several_temperatures_find_their_samples(tmp_path: Path, annotations: Annotations) -> None:
    folder = cell(tmp_path, rows())
    for name, count in (("samples", 4), ("mentions", 4)):
        frame = pd.read_parquet(folder / f"{name}.parquet").assign(temperature=1.0)
        assert len(frame) == count
        pd.concat([frame, frame.assign(temperature=2.0).iloc[: 4 if name == "samples" else 2]]).to_parquet(
            folder / f"{name}.parquet"
        )
    samples = load(folder, annotations)
    assert {t: len(answers.mentions) for t, answers in samples.answers.items()} == {1.0: 4, 2.0: 2}


# ---- what is wrong -----------------------------------------------------------------------------------------------


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
