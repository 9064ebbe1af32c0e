"""Samples files: what is read, and what is counted as malformed or unknown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.readers import samples_jsonl
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.samples import vocabulary
from harness.errors import DataError
from harness.types import Category
from tests.benchmarks.documents import Document
from tests.benchmarks.readers.sample_files import DOG, NAMES, SOFA, cell, lines, load, named, row, rows


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
