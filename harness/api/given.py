"""What a caller has in memory, as the files that readers know: one way in, with the same checks and messages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import ConfigError, DataError, DetmodesError

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class GivenFiles:
    """A folder for what is in memory. Names of files in it stand for themselves in everything that is said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def annotations(self, given: str | os.PathLike[str] | Mapping[str, Any]) -> Path:
        """Returns the file of annotations: the one that is named, or one with the content of an annotation file."""
        if isinstance(given, Mapping):
            return self._write("annotations.json", [_json(given)])
        return _path("annotations", given, "a path, or a mapping with images, annotations and categories")

    def detections(self, given: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | pd.DataFrame) -> Path:
        """Returns the file of detections: the one that is named, or one with these rows."""
        if hasattr(given, "to_parquet"):
            path = self._folder / "detections.parquet"
            given.to_parquet(path, index=False)
            return path
        if isinstance(given, Sequence) and not isinstance(given, str):
            return self._write("detections.json", [_json(list(given))])
        return _path("detections", given, "a path, a list of dicts, or a pandas DataFrame")

    def samples(self, given: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> Path:
        """Returns the file of samples, or the folder of a cell: what is named, or a file with these samples."""
        if isinstance(given, Sequence) and not isinstance(given, str):
            return self._write("samples.jsonl", map(_json, given))
        return _path("samples", given, "a path, or a list of dicts")

    def unplaced(self, value: T) -> T:
        """Returns a JSON value whose texts name files in the folder by their names alone."""
        replaced: T = _replace(value, f"{self._folder}{os.sep}")
        return replaced

    def _write(self, name: str, lines: Iterable[str]) -> Path:
        path = self._folder / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path


@contextmanager
def given_files() -> Iterator[GivenFiles]:
    """Makes a folder for what is in memory, for as long as the block runs; errors name its files by their names."""
    with TemporaryDirectory(prefix="detmodes-") as folder:
        files = GivenFiles(Path(folder))
        try:
            yield files
        except ConfigError as error:
            raise ConfigError(*files.unplaced(list(error.problems))) from None
        except DetmodesError as error:
            raise type(error)(files.unplaced(str(error))) from None


def _path(what: str, given: object, expected: str) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise DataError(f"{what}: expected {expected}, got {type(given).__name__}")
    return Path(os.fspath(given))


def _json(value: object) -> str:
    """Writes numbers and arrays of NumPy as numbers and lists."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise DataError(f"expected JSON values, got {type(value).__name__}")


def _replace(value: Any, folder: str) -> Any:
    if isinstance(value, str):
        return value.replace(folder, "")
    if isinstance(value, Mapping):
        return {key: _replace(item, folder) for key, item in value.items()}
    return [_replace(item, folder) for item in value] if isinstance(value, list) else value
