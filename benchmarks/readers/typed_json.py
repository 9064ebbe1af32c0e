"""JSON files decoded straight into the fields that are used; a mistake is told by its place and value.

What a record holds besides (polygons, captions) is skipped and never built, and the first value of a wrong type ends
the decoding: nonsense of any length fails at its first element.
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
"""Ids travel through float64 arrays on their way to the evaluator."""

UNUSED = "not valid JSON: expected finite numbers"
"""Begins what is said of a number that JSON does not have in a field that is not used."""
NO_NUMBER = re.compile(rb"(?<=[\[:,\s])-?(?:NaN|Infinity)(?=[\]},\s])")
TOKENS = re.compile(rb'[{}\[\]]|"[^"\\]*(?:\\.[^"\\]*)*"(?:\s*:)?')
"""Brackets, and strings, with the colon behind them if they are keys."""
JSON_TYPES = {
    "array": "a list",
    "object": "an object",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
}
SHOWN = 60
"""So many characters of a wrong value are quoted."""


def read(path: Path, expected: str) -> bytes:
    """All of a file. Raises DataError if there is none or it is empty (without the path: the caller names it)."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(f"expected {expected}: {getattr(error, 'strerror', None) or error}") from None
    if not content:
        raise DataError(f"expected {expected}, got an empty file")
    return content


def decode(content: bytes, kind: type[T], expected: Mapping[str, str], lenient: bool = False) -> T:
    """`content` as `kind`: a list of records (msgspec Structs), or a record of lists of records.

    expected: what to say of a value of a wrong type, by its place without indices: "" is the top level,
    "images" a list, "images[]" a record of it, "images[].width" a field; for a list of records "[]" and "[].width".
    Raises DataError, one line, with the place ("images[3].width"), what was expected and what came. The text of a
    file that is no JSON is refused as a whole, NaN and Infinity in its unused fields too: JSON has no such numbers.
    lenient: they are no numbers (null) instead. A mark of the byte order in front is skipped: Windows writes it.
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
    """Raise DataError naming the first key that an object of the text has twice: JSON readers take the last value.

    most: how often each key can be there; only where one may be there more often is the text looked through, slowly.
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
    """Count how often each string is in the text at most: of those without escapes by length and three characters."""
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
    """One line, at most SHOWN characters, nothing that a terminal cannot show."""
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
        """Where msgspec found a mistake; None if nowhere in particular (it is the top level)."""
        match = re.search(r" - at `\$\.?(\w*)(?:\[(\d+)\])?(?:\.(\w+))?.*`$", message)
        return match and cls(match[1], None if match[2] is None else int(match[2]), match[3] or "")

    @property
    def key(self) -> str:
        """As in `expected`."""
        return self.name + ("" if self.index is None else "[]") + (self.field and f".{self.field}")

    def __str__(self) -> str:
        return self.name + ("" if self.index is None else f"[{self.index}]") + (self.field and f".{self.field}")


def _misfit(content: bytes, message: str, expected: Mapping[str, str]) -> DataError:
    place = _Place.of(message)
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        return DataError(f'{place or "top level"}: has no "{missing[1]}"')
    wording = expected.get(place.key if place else "", message.split(" - at ")[0])
    return DataError(f"{place or 'top level'}: expected {wording}, got {_got(content, message, place)}")


def _got(content: bytes, message: str, place: _Place | None) -> str:
    """The value of a field as the file has it; of anything larger only the type."""
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
    """The text of a field's value: decodes up to its record again, skipping all else. None if the record is broken."""
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
    """NaN and Infinity are told by their place; all else is a file that is no JSON, or not all of it."""
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
    """The place of the number that is to follow: a string instead of it is a mistake which msgspec places."""
    try:
        msgspec.json.decode(before + b'""', type=kind)
    except msgspec.ValidationError as error:
        return _Place.of(str(error))
    except msgspec.DecodeError:  # a field that is not used
        pass
    return None
