"""Reads one annotation file of Pascal VOC (XML): size of the image, and name, box and `difficult` of each object.

XML may be anyone's: a document type is refused, and with it entities; depth and size are limited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from benchmarks.formats.data_folder import read_bytes
from benchmarks.formats.labelled_images import LabelledObject
from benchmarks.readers.typed_json import LARGEST_ID, printable
from harness.errors import DataError
from harness.types import Box

DEEPEST = 32
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class VocImage:
    """file_name: as the file gives it; None where it does not. content: the file itself."""

    file_name: str | None
    width: int
    height: int
    objects: tuple[LabelledObject, ...]
    content: bytes


def read_voc(path: Path, first_pixel: int = 1) -> VocImage:
    """Reads an annotation file. first_pixel: 1 where the pixel in the corner is (1, 1) and `xmax` is the last pixel of
    the box, as VOC has it; 0 where coordinates are edges that begin at 0. DataError, one line, at the first mistake."""
    content = read_bytes(path, "an annotation file of Pascal VOC (XML)")
    try:
        root = parse_xml(content)
        if root.tag != "annotation":
            raise DataError(f"expected <annotation>, got <{printable(root.tag)}>")
        width, height = (_side(root, f"size/{side}") for side in ("width", "height"))
        parts = [(part, f"object[{k}]") for k, part in enumerate(root.findall("object"))]
        objects = tuple(_object(part, where, first_pixel) for part, where in parts)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    file_name = (root.findtext("filename") or "").strip() or None
    return VocImage(file_name, width, height, objects, content)


def parse_xml(content: bytes) -> Element:
    """Parses XML without a document type, entities of one's own, or deep nesting. DataError with the line."""
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise DataError(f"line {parser.CurrentLineNumber}: expected at most {DEEPEST} elements inside each other")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: Any) -> None:
        raise DataError(f"line {parser.CurrentLineNumber}: expected XML without a document type and entities")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"expected XML: {printable(str(error))}") from None
    return builder.close()


def _side(root: Element, place: str) -> int:
    value = _number(root, place, "")
    if not (value.is_integer() and 1 <= value <= LARGEST_ID):
        raise DataError(f"{place}: expected an integer of at least 1, got {value:g}")
    return int(value)


def _object(part: Element, where: str, first_pixel: int) -> LabelledObject:
    name = (part.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where}/name: expected the name of a category, got nothing")
    difficult = (part.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise DataError(f"{where}/difficult: expected 0 or 1, got {printable(repr(difficult))}")
    x0, y0, x1, y1 = (_number(part, f"bndbox/{corner}", f"{where}/") for corner in CORNERS)
    if min(x0, y0) < first_pixel:
        hint = " (first_pixel: 0 is for files whose first pixel is 0)" if first_pixel else ""
        raise DataError(f"{where}/bndbox: expected coordinates of at least {first_pixel}{hint}, got {min(x0, y0):g}")
    if x1 < x0 or y1 < y0:
        raise DataError(f"{where}/bndbox: expected xmax >= xmin and ymax >= ymin, got {x0:g}, {y0:g}, {x1:g}, {y1:g}")
    # With first_pixel 1 the edge before pixel x0 is x0 - 1, and the one after the last pixel x1 is x1.
    left, top = x0 - first_pixel, y0 - first_pixel
    return LabelledObject(name, Box(left, top, x1 - left, y1 - top), counts=difficult == "0")


def _number(part: Element, place: str, where: str) -> float:
    text = (part.findtext(place) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}{place}: expected a number, got {printable(repr(text)) if text else 'nothing'}")
    return value
