"""Interprets settings for weights: "random", a file, hub:OWNER/NAME@REVISION, or weights saved by detmodes.

Nothing is read or downloaded here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError

HUB = "hub:"
CELL_WEIGHTS = "model.safetensors"
"""File name of the fine-tuned weights of a finished cell."""
RANDOM = "random"
"""Value of a setting for weights that means none are read."""


def has_revision(source: str) -> bool:
    """Tells whether a source is no repository of the hub, or one with its name and a revision."""
    return not source.startswith(HUB) or all(source.removeprefix(HUB).partition("@"))


def problems(key: str, source: object, otherwise: str) -> list[str]:
    """Lists what is wrong with a source that a setting names.

    Args:
        key: of the setting.
        otherwise: what the setting may say beside a repository of the hub, in words.
    """
    if not isinstance(source, str):
        return [f"{key}: expected {otherwise} or {HUB}OWNER/NAME@REVISION, got {source!r}"]
    if not has_revision(source):
        return [f"{key}: expected {HUB}OWNER/NAME@REVISION (a tag or commit), got {source!r}"]
    return []


@dataclass(frozen=True, slots=True)
class SavedModel:
    """Weights that detmodes has written. settings: those of their model, which name what it was built from; None for
    a single file."""

    file: Path
    settings: Mapping[str, Any]


def find_saved(weights: str) -> SavedModel | None:
    """Returns the weights that a setting names if it is the folder of a finished cell or a safetensors file; None for
    anything else. DataError where a cell's record cannot be read."""
    path = Path(weights)
    if path.suffix == ".safetensors":
        return SavedModel(path, {})
    record, file = path / "record.json", path / CELL_WEIGHTS
    if not (record.is_file() and file.is_file()):
        return None
    try:
        settings = json.loads(record.read_text())["model"]
        return SavedModel(file, dict(settings))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{record}: expected the record of a cell, got: {error}") from None


def named_place(setting: object) -> list[str]:
    """Lists the place that a setting for weights names, if any."""
    return [setting] if isinstance(setting, str) and setting != RANDOM else []


def places_behind(place: str) -> list[str]:
    """Lists what has to be read before the weights at a place: the weights that their cell began with."""
    saved = find_saved(place)
    return [] if saved is None else named_place(str(saved.settings.get("weights", RANDOM)))
