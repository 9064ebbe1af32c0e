"""Reads names of one's own for the categories of a data set, so that diversity of names is defined for it.

YAML, `couch: [sofa, lounge]`, or CSV, a line for each category: `couch,sofa,lounge`. The first is the name that the
data set has; a category may be left out.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.formats.data_folder import DataFolder, read_text
from benchmarks.readers.typed_json import printable
from harness.errors import ConfigError, DataError, unknown
from harness.types import Category
from harness.yaml_text import read_yaml

Names = Mapping[str, Sequence[str]]
KINDS = "a .yaml, .yml or .csv file"


def read_names(folder: DataFolder, name: str) -> tuple[str, Names]:
    """Returns the SHA-256 of the file, hexadecimal, and category -> further names. DataError, one line."""
    path = folder.find(name, str(folder.root))
    text = read_text(path, "a file of synonyms")
    ending = path.suffix.lower()
    if ending not in (".yaml", ".yml", ".csv"):
        raise DataError(f"{path}: expected {KINDS}")
    table = _from_csv(text, path) if ending == ".csv" else _from_yaml(text, path)
    if not table:
        raise DataError(f"{path}: expected at least one category with its names")
    return hashlib.sha256(text.encode()).hexdigest(), table


def _from_yaml(text: str, path: Path) -> Names:
    try:
        content = read_yaml(text, str(path))
    except ConfigError as error:
        raise DataError(str(error)) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected category: [name, name, ...]")
    table: dict[str, Sequence[str]] = {}
    for category, names in content.items():
        several = names if isinstance(names, list) else [names]
        if not all(isinstance(each, str) and each.strip() for each in several):
            raise DataError(f"{path}: {printable(str(category))}: expected names, got {printable(repr(names))}")
        table[str(category)] = several
    return table


def _from_csv(text: str, path: Path) -> Names:
    table: dict[str, Sequence[str]] = {}
    lines = csv.reader(io.StringIO(text), strict=True)
    try:
        for row in lines:
            category, *names = [cell.strip() for cell in row] or [""]
            if not category:
                continue
            if category in table:
                again = printable(repr(category))
                raise DataError(f"{path}: line {lines.line_num}: expected every category once, got {again} again")
            table[category] = [name for name in names if name]
    except csv.Error as error:
        raise DataError(f"{path}: line {lines.line_num}: expected CSV: {error}") from None
    return table


def add_names(categories: Sequence[Category], table: Names, path: Path) -> tuple[Category, ...]:
    """Returns the categories with further names. DataError for one that the data set does not have, and for a name that
    two of them would have."""
    names = {category.name for category in categories}
    for name in table:
        if name not in names:
            raise DataError(f"{path}: {unknown('category', name, names)}")
    named = tuple(replace(c, names=tuple(dict.fromkeys((*c.names, *table.get(c.name, ()))))) for c in categories)
    owner: dict[str, str] = {}
    for category in named:
        for name in category.names:
            first = owner.setdefault(name, category.name)
            if first != category.name:
                both = f"{printable(repr(first))} and {printable(repr(category.name))}"
                raise DataError(f"{path}: expected a name to mean one category, got {printable(repr(name))} for {both}")
    return named
