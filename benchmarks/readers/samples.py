"""Reads samples of any model for the images of an annotation file, into the columns that diversity is measured on.

Names are compared in the spelling of the annotations, where a space equals an underscore. A name that no category has
is unknown, and a mention without a name or valid box is malformed: both are counted, neither is dropped.

Shape legend: s samples (all images and temperatures), M mentions, I images, K samples per image, V vocabulary names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.readers import samples_jsonl, samples_parquet
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.sample_columns import NONE, UNKNOWN, Columns
from benchmarks.readers.typed_json import printable
from harness.errors import DataError
from harness.metrics.samples.mentions import Answers, Flags, Integers, Mentions
from harness.types import Category

GREEDY = 0.0
"""Temperature of the greedy answer, which does not count as a sample."""
LARGEST_SIDE = 1e100
"""Largest side in pixels: areas and sums of larger boxes would not be finite."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A samples file that fits its annotations.

    digests  file name -> SHA-256, hexadecimal
    step     the training step that was read; None where the files have no steps
    count    K
    answers  temperature -> K samples of every image, by ascending temperature
    greedy   the one answer of temperature 0 of every image, if there is one
    """

    digests: Mapping[str, str]
    step: int | None
    count: int
    answers: Mapping[float, Answers]
    greedy: Answers | None


def load(
    path: Path,
    annotations: Annotations,
    categories: Sequence[Category],
    step: int | None = None,
    temperature: float | None = None,
) -> Samples:
    """Reads the samples of `path` (a JSON Lines file, or the folder of a cell) of exactly the images of
    `annotations`.

    categories: those of the annotations, with all their names. temperature: measure this one only (None: all).
    Raises DataError, one line, that names the file, the line or row, and what was expected.
    """
    columns = _read(path, step)
    image = _images(path, columns, annotations)
    _check_samples(columns)
    temperatures = _temperatures(path, columns, temperature)
    category, name = _names(columns, annotations, categories)
    file = _ResolvedColumns(columns, image, category, name, _unreadable(columns))
    ids = np.array([example.image_id for example in annotations.examples], dtype=np.int64)
    counts = {t: np.bincount(image[columns.temperature == t], minlength=len(ids)) for t in temperatures}
    expected = _expected(path, {t: of_images for t, of_images in counts.items() if t != GREEDY}, ids)
    if GREEDY in counts:
        _check_counts(path, GREEDY, counts[GREEDY], 1, ids)
    answers = {t: _answers(file, t, 1 if t == GREEDY else expected, len(ids)) for t in temperatures}
    greedy = answers.pop(GREEDY, None)
    return Samples(columns.digests, columns.step, expected, answers, greedy)


def _read(path: Path, step: int | None) -> Columns:
    if path.is_dir():
        return samples_parquet.read(path, step)
    if step is not None:
        raise DataError(f"{path}: expected the folder of a cell for --step, got a file (which has no steps)")
    if path.suffix.lower() == ".parquet":
        folder = f"the folder with {samples_parquet.SAMPLES} and {samples_parquet.MENTIONS}"
        raise DataError(f"{path}: expected a JSON Lines file, or {folder}")
    return samples_jsonl.read(path)


@dataclass(frozen=True, slots=True)
class _ResolvedColumns:
    """A file's columns, resolved to indices: image [s], category [M], name [M] (codes), malformed [M]."""

    columns: Columns
    image: Integers
    category: Integers
    name: Integers
    malformed: Flags


# ---- samples -----------------------------------------------------------------------------------------------------


def _images(path: Path, columns: Columns, annotations: Annotations) -> Integers:
    """Returns the index of each sample's image, [s]."""
    ids = np.array([example.image_id for example in annotations.examples], dtype=np.int64)
    index, is_image = _positions(columns.image_id, ids)
    if not is_image.any():
        raise DataError(f"{path}: expected samples of the images of {annotations.path}, they have no image in common")
    if not is_image.all():
        row = int(np.argmin(is_image))
        got = columns.image_id[row]
        raise DataError(f"{columns.sample_place(row)}: image_id: expected an image of {annotations.path}, got {got}")
    return index


def _positions(values: Integers, ids: Integers) -> tuple[Integers, Flags]:
    """Returns the position of each value in `ids` (unique, any order), and whether it occurs; the position is 0 where
    it does not."""
    if not len(ids):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    order = np.argsort(ids)
    place = order[np.minimum(np.searchsorted(ids[order], values), len(ids) - 1)]
    present = ids[place] == values
    return np.where(present, place, 0), present


def _check_samples(columns: Columns) -> None:
    """Raises DataError unless temperatures are numbers of at least 0, and no sample occurs twice."""
    good = np.isfinite(columns.temperature) & (columns.temperature >= 0)
    if not good.all():
        row = int(np.argmin(good))
        got = columns.temperature[row]
        raise DataError(f"{columns.sample_place(row)}: temperature: expected a number of at least 0, got {got}")
    order = np.lexsort((columns.temperature, columns.sample, columns.image_id))
    keys = (columns.image_id, columns.sample, columns.temperature)
    again = np.flatnonzero(np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys]))
    if len(again):
        row = int(order[again[0] + 1])
        told = ", ".join(f"{n} {key[row]}" for n, key in zip(("image_id", "sample", "temperature"), keys, strict=True))
        raise DataError(f"{columns.sample_place(row)}: expected every sample once, got {told} again")


def _temperatures(path: Path, columns: Columns, chosen: float | None) -> list[float]:
    """Returns the temperatures to read, ascending; GREEDY among them if the file has it."""
    temperatures = [float(t) for t in np.unique(columns.temperature)]
    sampled = [t for t in temperatures if t != GREEDY]
    if not sampled:
        raise DataError(f"{path}: expected samples of a temperature above 0 (0 is the greedy answer), got none")
    if chosen is None:
        return temperatures
    if chosen not in sampled:
        available = ", ".join(f"{t:g}" for t in sampled)
        raise DataError(f"{path}: expected --temperature to be one of {available}, got {chosen:g}")
    return [t for t in temperatures if t in (GREEDY, chosen)]


def _expected(path: Path, counts: Mapping[float, Integers], ids: Integers) -> int:
    """Returns K: the number of samples that most images have (of equally frequent ones the larger). Every image must
    have K at every temperature."""
    frequency = Counter(np.concatenate([of_images[of_images > 0] for of_images in counts.values()]).tolist())
    expected = max(frequency, key=lambda count: (frequency[count], count))
    for temperature, of_images in counts.items():
        _check_counts(path, temperature, of_images, expected, ids)
    return int(expected)


def _check_counts(path: Path, temperature: float, counts: Integers, expected: int, ids: Integers) -> None:
    wrong = np.flatnonzero(counts != expected)
    if not len(wrong):
        return
    got = int(counts[wrong[0]])
    what = "one greedy answer (temperature 0)" if temperature == GREEDY else f"K = {expected} samples at temperature"
    what += "" if temperature == GREEDY else f" {temperature:g}"
    hint = " (cut the annotation file down to the images that were sampled)" if got == 0 else ""
    raise DataError(f"{path}: image {ids[wrong[0]]}: expected {what} as other images have, got {got}{hint}")


# ---- mentions ----------------------------------------------------------------------------------------------------


def _unreadable(columns: Columns) -> Flags:
    """Flags the mentions without a name or valid box, [M]; a valid box has four finite numbers, width and height
    above 0."""
    box = (np.abs(columns.boxes) <= LARGEST_SIDE).all(axis=1) & (columns.boxes[:, 2:] > 0).all(axis=1)
    return np.asarray(~box | ((columns.name == NONE) & (columns.category_id < 0)))


def _names(columns: Columns, annotations: Annotations, categories: Sequence[Category]) -> tuple[Integers, Integers]:
    """Returns the index of the category (-1: unknown name) and the code of the name of each mention, both [M].

    A name's code is its place among the V names of the vocabulary, or after them. Where category and name are both
    given they must agree: else these are samples of other annotations.
    """
    ids = np.array([category.id for category in categories], dtype=np.int64)
    given, is_category = _positions(columns.category_id, ids)
    if not (is_category | (columns.category_id < 0)).all():
        row = int(np.argmin(is_category | (columns.category_id < 0)))
        got = f"category_id: expected a category of {annotations.path}, got {columns.category_id[row]}"
        raise DataError(f"{columns.mention_place(row)}: {got}")
    code_of, category_of, first = vocabulary(categories)
    codes = np.fromiter(_codes(columns.names, code_of, len(category_of)), np.int64, len(columns.names))
    named = columns.name != NONE
    code = np.where(is_category, first[given] if len(first) else 0, -1)
    code[named] = codes[columns.name[named]]
    category = np.where(code < len(category_of), np.append(category_of, -1)[np.minimum(code, len(category_of))], -1)
    differ = named & is_category & (category != given)
    if differ.any():
        row = int(np.argmax(differ))
        name = printable(columns.names[columns.name[row]])
        one = "of no category" if category[row] < 0 else f"of category {ids[category[row]]}"
        expected = f"the category of its name, {name!r} ({one} in {annotations.path})"
        raise DataError(f"{columns.mention_place(row)}: category_id: expected {expected}, got {ids[given[row]]}")
    # A cell lists the names that its model's vocabulary did not have.
    return np.where(columns.category_id == UNKNOWN, -1, category), code


def vocabulary(categories: Sequence[Category]) -> tuple[dict[str, int], Integers, Integers]:
    """Maps every accepted spelling to the code of its name; also returns the category of each name [V] and the code
    of each category's first name [C].

    A space is accepted for an underscore wherever the result is not, or could not be, another name.
    """
    names = [(name, index) for index, category in enumerate(categories) for name in category.names]
    exact = {name: code for code, (name, _) in enumerate(names)}
    claims = Counter(name.replace("_", " ") for name in exact)
    spaced = {name.replace("_", " "): code for name, code in exact.items() if claims[name.replace("_", " ")] == 1}
    counts = np.array([len(category.names) for category in categories], dtype=np.int64)
    return spaced | exact, np.array([index for _, index in names], dtype=np.int64), np.cumsum(counts) - counts


def _codes(names: Sequence[str], code_of: Mapping[str, int], size: int) -> Iterator[int]:
    """Returns the code of each name; names outside of the vocabulary are numbered after its `size` names."""
    for position, name in enumerate(names):
        yield code_of.get(name, size + position)


# ---- together ----------------------------------------------------------------------------------------------------


def _answers(file: _ResolvedColumns, temperature: float, count: int, images: int) -> Answers:
    """Makes the samples of one temperature: `count` of each image, numbered 0 .. count - 1 by ascending `sample`."""
    columns = file.columns
    rows = np.flatnonzero(columns.temperature == temperature)
    rows = rows[np.lexsort((columns.sample[rows], file.image[rows]))]  # [I * count]
    place = np.full(len(columns.image_id), -1)
    place[rows] = np.arange(len(rows))
    of_mention = place[columns.owner]
    here = np.flatnonzero(of_mention >= 0)
    unreadable = np.bincount(of_mention[here[file.malformed[here]]], minlength=len(rows))
    readable = here[~file.malformed[here]]
    readable = readable[np.argsort(of_mention[readable], kind="stable")]
    mentions = Mentions(
        image=of_mention[readable] // count,
        sample=of_mention[readable] % count,
        name=file.name[readable],
        category=file.category[readable],
        boxes=columns.boxes[readable],
        score=columns.score[readable],
    )
    malformed = (columns.malformed[rows] + unreadable).reshape(images, count)
    shape = (images, count)
    return Answers(mentions, malformed, columns.truncated[rows].reshape(shape), columns.lenient[rows].reshape(shape))
