"""Finds the picture that an image record names, inside the folder of the data set and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from harness.errors import DataError

PUBLISHED = frozenset({"train2014", "val2014", "test2015", "train2017", "val2017", "test2017"})
"""Folders of COCO's layout, which the owner of the data may have replaced by links."""


class PictureFolder:
    """The folder of a data set's pictures. Annotation files of unknown origin may name files of this folder only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots: dict[Path, bool] = {}

    def find(self, file_name: str | None, url: str | None, where: str) -> Path:
        """Returns the first of these that exists, else the first: file_name, 0.jpg, train2017/0.jpg (ends of the
        url).

        v1 files have `coco_url` alone; v0.5 files also have a `file_name` under which COCO no longer publishes. A
        backslash is a separator: files are annotated on Windows too. Raises DataError for no name at all, and for one
        that leads out of the folder, by itself or by a link.
        """
        name = (file_name or "").replace("\\", "/")
        parts = (url or "").split("/")
        candidates = [candidate for candidate in (name, parts[-1], "/".join(parts[-2:])) if candidate]
        if not candidates:
            raise DataError(f'{where}: expected "file_name" or "coco_url"')
        for candidate in candidates:
            if "\0" in candidate:
                raise DataError(
                    f"{where}: expected the name of a file, without null characters; got {candidate[:80]!r}"
                )
            if PurePosixPath(candidate).is_absolute() or ".." in PurePosixPath(candidate).parts:
                raise DataError(f"{where}: expected the name of a file inside {self._folder}, got {candidate[:80]!r}")
        paths = [self._folder / candidate for candidate in candidates]
        path = next((path for path in (*paths, *self._elsewhere(name)) if is_file(path)), paths[0])
        if not self._is_inside(path):
            raise DataError(f"{where}: expected a file inside {self._folder}, got a link out of it: {path}")
        return path

    def _elsewhere(self, name: str) -> Iterator[Path]:
        """Yields further places where annotation tools put a picture: the name begins with that of the folder, or the
        pictures lie in a folder of the usual layout below it."""
        first, _, rest = name.partition("/")
        if rest and first == self._folder.name:
            yield self._folder / rest
        if name:
            yield from (self._folder / usual / name for usual in ("images", "train2017", "val2017"))

    def _is_inside(self, path: Path) -> bool:
        """Tells whether a path lies inside the folder with links resolved. Folders are resolved once, not for each
        picture."""
        parent = path.parent
        if parent not in self._roots:
            self._roots[parent] = self._is_below_root(parent)
        return self._roots[parent] and (not is_link(path) or self._is_below_root(path))

    def _is_below_root(self, path: Path) -> bool:
        root = self._folder.resolve()
        places = [root, *((self._folder / name).resolve() for name in PUBLISHED)]
        resolved = path.resolve()
        return any(resolved.is_relative_to(place) for place in places)


def is_file(path: Path) -> bool:
    """Tells whether a file exists; a name that is too long or cannot be encoded does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_link(path: Path) -> bool:
    """Tells whether the last part of a path is a link."""
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False
