"""Reads samples as JSON Lines, from any model: one sample a line.

`{"image_id": 1, "sample": 3, "temperature": 1.0, "mentions": [{"name": "sofa", "bbox": [x, y, w, h], "score": 0.9},
...], "malformed": 0, "truncated": false, "lenient": 0}`. Instead of a name a mention may have a `category_id`, whose
first name then stands for it. The score is optional, and so are `temperature` (1), `malformed` (0), `truncated` (false)
and `lenient` (0); other keys are ignored, unless they look like one that is missing.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.readers import typed_json
from benchmarks.readers.sample_columns import NATURAL, NONE, PROBABILITY, Columns, check_scores
from harness.errors import DataError

Natural = Annotated[int, msgspec.Meta(ge=0, le=typed_json.LARGEST_ID)]
Quad = tuple[float, float, float, float]
NO_BOX: Quad = (math.nan,) * 4


class _Mention(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    bbox: Quad
    name: str | None = None
    category_id: Natural | None = None
    score: float | None = None


class _Sample(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    image_id: Natural
    sample: Natural
    mentions: list[_Mention]
    temperature: float = 1.0
    malformed: Natural = 0
    truncated: bool = False
    lenient: Natural = 0


class _LooseMention(_Mention, gc=False, forbid_unknown_fields=False):
    """A mention parsed from a model's text by other code: the box may have any value, or be missing."""

    bbox: Any = None


class _LooseSample(_Sample, gc=False, forbid_unknown_fields=False):
    mentions: list[_LooseMention]  # type: ignore[assignment]


A_SAMPLE = 'one sample a line, {"image_id", "sample", "mentions", ...}'
EXPECTED = {
    "": A_SAMPLE,
    "mentions[]": 'a mention, {"name", "bbox", ...}',
    "mentions[].name": "a string",
    "mentions[].category_id": NATURAL,
    "mentions[].score": PROBABILITY,
    "[]": A_SAMPLE,
    **{f"[].{name}": NATURAL for name in ("image_id", "sample", "malformed", "lenient")},
    "[].mentions": "a list of mentions",
    "[].temperature": "a number of at least 0",
    "[].truncated": "true or false",
}
"""Texts for values of a wrong type, see `typed_json.decode`."""

NAMES = frozenset({"name", "category_id"})
"""Fields of a mention that stand for each other."""
CHUNK = 4096
"""Samples that are held as objects at a time: they take five times the memory of their columns."""


def read(path: Path) -> Columns:
    """Reads the columns of a JSON Lines file. Raises DataError, one line, naming the file, the line, the field."""
    digest, names = hashlib.sha256(), dict[str, int]()
    try:
        with path.open("rb") as stream:
            parts = [_columns(numbers, samples, names) for numbers, samples in _chunks(path, stream, digest.update)]
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: expected a JSON Lines file, or the folder of a cell: {reason}") from None
    if not parts:
        raise DataError(f"{path}: expected samples, got an empty file")
    line, image_id, sample, temperature, malformed, truncated, lenient, counts, *mentions = map(
        _joined, zip(*parts, strict=True)
    )
    owner = np.repeat(np.arange(len(line)), counts)
    first = np.cumsum(counts) - counts

    def mention_place(row: int) -> str:
        return f"{path}: line {line[owner[row]]}: mentions[{row - first[owner[row]]}]"

    check_scores(mentions[-1], ~np.isnan(mentions[-1]), "score", mention_place)
    name, category_id, boxes, score = mentions
    return Columns(
        digests={path.name: digest.hexdigest()},
        step=None,
        image_id=image_id,
        sample=sample,
        temperature=temperature,
        malformed=malformed,
        truncated=truncated,
        lenient=lenient,
        owner=owner,
        name=name,
        names=tuple(names),
        category_id=category_id,
        boxes=boxes,
        score=score,
        sample_place=lambda row: f"{path}: line {line[row]}",
        mention_place=mention_place,
    )


def _joined(parts: tuple[NDArray[Any], ...]) -> NDArray[Any]:
    return np.concatenate(parts)


def _chunks(
    path: Path, stream: BinaryIO, hash_line: Callable[[bytes], None]
) -> Iterator[tuple[list[int], list[_Sample]]]:
    """Yields the samples of a file with their line numbers (from 1), CHUNK at a time. Empty lines are skipped."""
    decode = msgspec.json.Decoder(_Sample).decode
    numbers: list[int] = []
    samples: list[_Sample] = []
    for number, line in enumerate(stream, start=1):
        hash_line(line)
        if line.isspace():
            continue
        try:
            sample = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            sample = _loose(line, f"{path}: line {number}")
        _require_keys_once(line, len(sample.mentions), f"{path}: line {number}")
        numbers.append(number)
        samples.append(sample)
        if len(samples) == CHUNK:
            yield numbers, samples
            numbers, samples = [], []
    if samples:
        yield numbers, samples


def _loose(line: bytes, where: str) -> _Sample:
    """Reads an invalid line: a mention without a box is accepted (NO_BOX), anything else is an error.

    JSON has no NaN, but Python writes it, and a box that a model got wrong may hold one. Further fields are ignored,
    except for one that looks like a field that is not there, whose value would be overlooked.
    """
    try:
        try:
            sample = msgspec.json.decode(line, type=_LooseSample)
        except (msgspec.DecodeError, UnicodeDecodeError):
            sample = msgspec.convert(json.loads(line), _LooseSample)
    except (ValueError, RecursionError):  # msgspec's and json's errors are ValueErrors
        raise DataError(f"{where}: {_problem(line)}") from None
    _require_no_misspelling(line, where)
    for position, mention in enumerate(sample.mentions):
        mention.bbox = _quad(mention.bbox)
        if mention.score is not None and math.isnan(mention.score):
            raise DataError(f"{where}: mentions[{position}]: score: expected {PROBABILITY}, got NaN")
    return sample


def _require_keys_once(line: bytes, mentions: int, where: str) -> None:
    """Raises DataError where an object of the line has a key twice, of which the last would win."""
    most = {**dict.fromkeys(_Sample.__struct_fields__, 1), **dict.fromkeys(_Mention.__struct_fields__, mentions)}
    if any(line.count(b'"%s"' % key.encode()) > number for key, number in most.items()):
        try:
            typed_json.require_keys_once(line, most)
        except DataError as error:
            raise DataError(f"{where}: {str(error).partition(': ')[2]}") from None


def _require_no_misspelling(line: bytes, where: str) -> None:
    content = json.loads(line)
    if key := _misspelled(frozenset(content), _Sample):
        raise DataError(f"{where}: {key}")
    for position, mention in enumerate(content["mentions"]):
        if key := _misspelled(frozenset(mention), _Mention):
            raise DataError(f"{where}: mentions[{position}]: {key}")


@lru_cache(maxsize=1000)  # the lines of a file have the same few keys
def _misspelled(keys: frozenset[str], struct: type[msgspec.Struct]) -> str:
    """Says which key looks like a field that is not there; empty where none does."""
    named = NAMES if keys & NAMES else keys  # one of them is enough
    absent = [field for field in struct.__struct_fields__ if field not in keys | named]
    for key in sorted(keys.difference(struct.__struct_fields__)):
        if close := difflib.get_close_matches(key.lower(), absent, n=1, cutoff=0.75):
            return f"unknown field {typed_json.printable(key)!r}, did you mean {close[0]!r}?"
    return ""


def _quad(value: Any) -> Quad:
    if not isinstance(value, list) or len(value) != 4 or not all(type(side) in (int, float) for side in value):
        return NO_BOX
    try:
        x, y, w, h = map(float, value)
    except OverflowError:
        return NO_BOX
    return x, y, w, h


def _problem(line: bytes) -> str:
    """Describes the error of a line that cannot be read. It is decoded as a list of one, so that its fields are
    quoted too."""
    try:
        typed_json.decode(line, _LooseSample, EXPECTED)
    except DataError as error:
        text = str(error)
        if text.startswith(("mentions[", "not valid JSON")):
            return text
    try:
        typed_json.decode(b"[" + line + b"]", list[_LooseSample], EXPECTED)
    except DataError as error:
        return str(error).removeprefix("[0]").removeprefix(".").removeprefix(": ")
    return f"expected {A_SAMPLE}"


def _columns(numbers: list[int], samples: list[_Sample], names: dict[str, int]) -> tuple[NDArray[Any], ...]:
    """Returns the columns in the order of `read`. `names` gets the code of every new name."""
    mentions = [mention for sample in samples for mention in sample.mentions]
    count = len(mentions)
    boxes = np.fromiter(chain.from_iterable(m.bbox for m in mentions), np.float64, 4 * count)
    codes = (NONE if m.name is None else names.setdefault(m.name, len(names)) for m in mentions)
    return (
        np.array(numbers, dtype=np.int64),
        np.array([s.image_id for s in samples], dtype=np.int64),
        np.array([s.sample for s in samples], dtype=np.int64),
        np.array([s.temperature for s in samples], dtype=np.float64),
        np.array([s.malformed for s in samples], dtype=np.int64),
        np.array([s.truncated for s in samples], dtype=np.bool_),
        np.array([s.lenient for s in samples], dtype=np.int64),
        np.array([len(s.mentions) for s in samples], dtype=np.int64),
        np.fromiter(codes, np.int64, count),
        np.fromiter((NONE if m.category_id is None else m.category_id for m in mentions), np.int64, count),
        boxes.reshape(-1, 4),
        np.fromiter((math.nan if m.score is None else m.score for m in mentions), np.float64, count),
    )
