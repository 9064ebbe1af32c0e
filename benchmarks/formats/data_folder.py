"""Finds files inside the folder of a data set and nowhere else, and reads them up to a size.

Which files there are is said by the data set's own lists: they may be of unknown origin, and so name no other files.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from harness.errors import DataError

MOST_BYTES = 10_000_000
"""Largest file of labels, names or a list: those of real data sets have some kilobytes, a list of a million 50 MB."""
MOST_LIST_BYTES = 200_000_000
SHOWN = 80


class DataFolder:
    """The folder given with --data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = root.resolve()

    def find(self, name: str, where: str) -> Path:
        """Returns the place of a name, which may not exist. DataError, beginning with `where`, for one that leads out
        of the folder, by itself or by a link."""
        parts = PurePosixPath(name.replace("\\", "/"))
        if not parts.parts or parts.is_absolute() or ".." in parts.parts:
            raise DataError(f"{where}: expected the name of a file inside {self.root}, got {name[:SHOWN]!r}")
        return self.require_inside(self.root / parts, where)

    def require_inside(self, path: Path, where: str) -> Path:
        """Returns the path. DataError where a link leads it out of the folder."""
        try:
            inside = path.resolve().is_relative_to(self._resolved)
        except (OSError, ValueError):  # a name that no file can have
            inside = False
        if not inside:
            raise DataError(f"{where}: expected a file inside {self.root}, got a link out of it: {str(path)[-SHOWN:]}")
        return path


def read_bytes(path: Path, expected: str, most: int = MOST_BYTES) -> bytes:
    """Reads a file of at most so many bytes. DataError, one line, where there is none or it is larger."""
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected {expected}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > most:
        raise DataError(f"{path}: expected {expected} of at most {most:,} bytes")
    return content


def read_text(path: Path, expected: str, most: int = MOST_BYTES) -> str:
    """Reads a text in UTF-8, with or without a mark of the byte order, see `read_bytes`."""
    try:
        return read_bytes(path, expected, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected {expected} in UTF-8: byte {error.start}: {error.reason}") from None
