"""Decodes JSON files directly into the used fields, and reports a mistake with its place and value.

Other fields of a record (polygons, captions) are skipped, and the first value of a wrong type ends the decoding, so
invalid content of any length fails at its first element.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from harness.errors import DataError

T = TypeVar("T")

LARGEST_ID = 2**53 - 1
"""Largest id: ids travel through float64 arrays on their way to the evaluator."""

UNUSED = "not valid JSON: expected finite numbers"
"""Beginning of the message about an invalid JSON number in an unused field."""
NO_NUMBER = re.compile(rb"(?<=[\[:,\s])-?(?:NaN|Infinity)(?=[\]},\s])")
TOKENS = re.compile(rb'[{}\[\]]|"[^"\\]*(?:\\.[^"\\]*)*"(?:\s*:)?')
"""Pattern of brackets and of strings, with the colon behind them if they are keys."""
JSON_TYPES = {
    "array": "a list",
    "object": "an object",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
}
SHOWN = 60
"""Number of characters of a wrong value that are quoted."""


def read(path: Path, expected: str) -> bytes:
    """Reads a whole file. Raises DataError if it does not exist or is empty (without the path: the caller adds it)."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(f"expected {expected}: {getattr(error, 'strerror', None) or error}") from None
    if not content:
        raise DataError(f"expected {expected}, got an empty file")
    return content


def decode(content: bytes, kind: type[T], expected: Mapping[str, str], lenient: bool = False) -> T:
    """Decodes `content` as `kind`: a list of records (msgspec Structs), or a record of lists of records.

    expected: the texts for values of a wrong type, by their place without indices: "" is the top level, "images" a
    list, "images[]" a record of it, "images[].width" a field; for a list of records "[]" and "[].width". Raises
    DataError, one line, with the place ("images[3].width"), what was expected and what came. A file that is not JSON
    is refused as a whole; so are NaN and Infinity in unused fields, as JSON has no such numbers. lenient: these are
    read as null instead. A mark of the byte order in front is skipped: Windows writes it.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(content, str(error), expected) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = _malformed(content, kind, str(error), expected)
    if lenient and str(problem).startswith(UNUSED):
        return decode(NO_NUMBER.sub(rb"null", content), kind, expected)
    raise problem


def require_keys_once(content: bytes, most: Mapping[str, int]) -> None:
    """Raises DataError naming the first key that an object of the text has twice: JSON readers take the last value.

    most: how often each key may occur; only if one occurs more often is the text searched, which is slow.
    """
    if all(count <= most[key] for key, count in _count_strings(content, most).items()):
        return
    objects: list[set[bytes] | None] = []  # of each open bracket the keys so far; None for a list
    for token in TOKENS.finditer(content):
        text = token[0]
        if text in (b"{", b"["):
            objects.append(set() if text == b"{" else None)
        elif text in (b"}", b"]"):
            objects.pop()
        elif text.endswith(b":") and objects and (keys := objects[-1]) is not None:
            key = text[: text.rindex(b'"') + 1]
            if key in keys:
                line = content.count(b"\n", 0, token.start()) + 1
                raise DataError(
                    f"line {line}: expected a key once, got {printable(key.decode(errors='replace'))} again"
                )
            keys.add(key)


def _count_strings(content: bytes, strings: Iterable[str]) -> dict[str, int]:
    """Counts how often each string occurs in the text at most, judging strings without escapes by length and three
    characters."""
    if b"\\" in content:
        return {string: content.count(b'"%s"' % string.encode()) for string in strings}
    characters = np.frombuffer(content, np.uint8)
    quotes = np.flatnonzero(characters == ord('"'))
    first, last = quotes[: len(quotes) // 2 * 2 : 2], quotes[1::2]
    codes = _code(
        last - first - 1, characters[first + 1], characters[np.minimum(first + 2, last)], characters[last - 1]
    )
    return {
        string: int(np.count_nonzero(codes == _code(len(string), *(ord(c) for c in (*string[:2], string[-1])))))
        for string in strings
    }


def _code(length: Any, first: Any, second: Any, last: Any) -> Any:
    return ((length * 256 + first) * 256 + second) * 256 + last


def printable(text: str) -> str:
    """Returns one printable line of at most SHOWN characters."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


@dataclass(frozen=True, slots=True)
class _Place:
    """`images[3].width[0]`: the list "images" ("" if it is the top level), index 3, field "width"."""

    name: str
    index: int | None
    field: str

    @classmethod
    def of(cls, message: str) -> _Place | None:
        """Parses the place where msgspec found a mistake; None for the top level."""
        match = re.search(r" - at `\$\.?(\w*)(?:\[(\d+)\])?(?:\.(\w+))?.*`$", message)
        return match and cls(match[1], None if match[2] is None else int(match[2]), match[3] or "")

    @property
    def key(self) -> str:
        """Returns the place in the form of the keys of `expected`."""
        return self.name + ("" if self.index is None else "[]") + (self.field and f".{self.field}")

    def __str__(self) -> str:
        return self.name + ("" if self.index is None else f"[{self.index}]") + (self.field and f".{self.field}")


def _misfit(content: bytes, message: str, expected: Mapping[str, str]) -> DataError:
    place = _Place.of(message)
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        return DataError(f'{place or "top level"}: has no "{missing[1]}"')
    wording = expected.get(place.key if place else "", message.split(" - at ")[0])
    got = _got(content, message, place)
    if got.isdigit() and int(got) > LARGEST_ID:
        wording += f" and at most {LARGEST_ID} (beyond 2^53 not every program reads the same integer)"
    return DataError(f"{place or 'top level'}: expected {wording}, got {got}")


def _got(content: bytes, message: str, place: _Place | None) -> str:
    """Returns the value of a field as in the file; for anything larger only its type."""
    value = _text(content, place) if place is not None and place.field else None
    if value is not None:
        return printable(value.decode(errors="replace"))
    if "out of range" in message:
        return "a number too large for float64"
    came = re.search(r"got `(\w+)`", message)
    return JSON_TYPES.get(came[1], came[1]) if came else "something else"


class _Found(Exception):  # noqa: N818  # no error
    """Ends the second decoding, with the text of the value."""


def _text(content: bytes, place: _Place) -> bytes | None:
    """Returns the text of a field's value by decoding up to its record again. None if the record is broken."""
    count = -1

    def capture(record: Any) -> None:
        nonlocal count
        count += 1
        if count == place.index:
            raise _Found(bytes(record.value))
        record.value = None

    fields = [("value", msgspec.Raw, msgspec.Raw())]
    hook = {"__post_init__": capture}
    record = msgspec.defstruct("Record", fields, rename={"value": place.field}, namespace=hook, gc=False)
    kind: Any = list[record]  # type: ignore[valid-type]  # made at run time
    if place.name:
        kind = msgspec.defstruct("File", [("records", kind)], rename={"records": place.name})
    try:
        msgspec.json.decode(content, type=kind)
    except _Found as error:
        return cast(bytes, error.args[0])
    except (msgspec.DecodeError, RecursionError):
        pass
    return None


def _malformed(content: bytes, kind: Any, message: str, expected: Mapping[str, str]) -> DataError:
    """Makes the error for invalid JSON: NaN and Infinity are reported with their place; anything else is a file that
    is not JSON or incomplete."""
    at = re.search(r"\(byte (\d+)\)", message)
    start = int(at[1]) if at else 0
    start -= content[start - 1 : start] == b"-"
    literal = re.match(rb"-?(?:NaN|Infinity)", content[start : start + 9])
    if at is None or literal is None:
        return DataError(f"not valid JSON, is the file complete? ({message})")
    place = _number(content[:start], kind)
    got = literal[0].decode()
    if place is None:
        return DataError(f"{UNUSED}, got {got} (byte {start})")
    return DataError(f"{place}: expected {expected.get(place.key, 'a finite number')}, got {got}")


def _number(before: bytes, kind: Any) -> _Place | None:
    """Returns the place of the number that should follow: a string replaces it, a mistake that msgspec locates."""
    try:
        msgspec.json.decode(before + b'""', type=kind)
    except msgspec.ValidationError as error:
        return _Place.of(str(error))
    except msgspec.DecodeError:  # a field that is not used
        pass
    return None
