"""Stores in a cell's folder `resume`, beside the checkpoints of training, what the cell has computed, so that a killed
cell need not compute it again.

In:  the cell's folder `resume`, and what its result depends on: files stored under other settings are not used.
Out: evaluations, their finished parts, and the tables that stages begin with, each read from disk or made now.

An evaluation or a table is stored under its weights (the first digits of their digest): if training repeats itself to
the last bit it is read again, otherwise it is made again. If several processes compute the cell
(harness.system.ranks), all call these methods in the same order; rank 0 reads and writes, shares what it reads, and
gathers what the others make.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from accelerate import Accelerator

from harness.errors import DataError
from harness.evaluation.evaluate import Measurement
from harness.records import EvaluationInfo
from harness.records.cache import SharedCache
from harness.system import files, ranks
from harness.system.interrupts import Interrupts

T = TypeVar("T")

WEIGHTS = "model.safetensors"
EVALUATION, TABLE = "evaluation.json", "table.json"
UNTRAINED = "base"


class ResumeWarning(UserWarning):
    """A stored file cannot be used: its content is computed again."""


@dataclass
class ResumeFolder:
    """The folder `resume` of a cell. settings: what the cell's result depends on. weights: digest of the present
    ones. interrupts: a signal ends the cell once new results are stored. check: called before anything is written;
    raises where another process has taken the cell over."""

    path: Path
    settings: str
    accelerator: Accelerator
    interrupts: Interrupts
    check: Callable[[], None] = lambda: None
    weights: str = UNTRAINED

    @property
    def main(self) -> bool:
        """Tells whether this process reads and writes."""
        main: bool = self.accelerator.is_main_process
        return main

    def place(self, name: str) -> Path:
        """Returns the path of something that is stored for the present weights."""
        return self.path / f"{name}-{self.weights[:16]}"

    def content_of(self, files_of: Path, **content: Any) -> dict[str, Any]:
        """Returns the description of a folder: the settings, `content`, and the digests of its files."""
        digests = {path.name: files.sha256(path) for path in sorted(files_of.iterdir())}
        return {"settings": self.settings, **content, "files": digests}

    def read_content(self, path: Path) -> dict[str, Any]:
        """Reads the description. Raises DataError if it is absent or of other settings, or if a file has changed."""
        content: dict[str, Any] = files.read_json(path)
        if content["settings"] != self.settings:
            raise DataError(f"{path}: settings: expected {self.settings}, got {content['settings']}")
        for name, expected in content["files"].items():
            if not path.with_name(name).is_file() or files.sha256(path.with_name(name)) != expected:
                raise DataError(f"{path.with_name(name)}: missing, or not what was written")
        return content

    def usable(self, what: str, place: Path, read: Callable[[Path], T]) -> T | None:
        """Returns what is stored there, on rank 0; None where nothing is stored, and None, with a warning, where it
        cannot be used."""
        if not self.main:
            return None
        try:
            return read(place)
        except DataError as error:
            if place.exists():
                warn(f"{what} is made again: {error}")
        return None


def warn(message: str) -> None:
    """Warns that a stored file cannot be used."""
    warnings.warn(message, ResumeWarning, stacklevel=3)


# ---- what stages begin with ------------------------------------------------------------------------------------------


class StageTables:
    """A Cache of tables (harness.records.cache): resume/table-<name>-<weights>/. paths: the file of each existing
    table, by name, on rank 0."""

    def __init__(self, folder: ResumeFolder) -> None:
        self._folder = folder
        self.paths: dict[str, Path] = {}

    def get_or_make(self, name: str, make: Callable[[], T], /) -> T:
        """Returns the table, a DataFrame. Raises Interrupted, once it is stored, if a signal came."""
        folder, place = self._folder, self._folder.place(f"table-{name}")
        path = self.paths.get(name) or folder.usable(f"table {name}", place, self.read)
        if not ranks.same(folder.accelerator, path is not None):
            made = make()
            if folder.main:
                assert isinstance(made, pd.DataFrame)
                path = self._keep(name, place, made)
            folder.interrupts.check()
        if path is not None:
            self.paths[name] = path
        table: Any = ranks.same(folder.accelerator, None if path is None else pd.read_parquet(path))
        return table  # type: ignore[no-any-return]

    def read(self, place: Path) -> Path:
        """Returns the table's file in its folder; DataError if it is absent or has changed."""
        names: dict[str, str] = self._folder.read_content(place / TABLE)["files"]
        return place / next(iter(names))

    def _keep(self, name: str, place: Path, made: pd.DataFrame) -> Path:
        with files.whole_folder(place, self._folder.check) as partial:
            made.to_parquet(partial / f"{name}.parquet", compression="zstd", index=False)
            files.write_json(partial / TABLE, self._folder.content_of(partial))
        return self.read(place)


# ---- evaluations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation on disk. `evaluator`: engine and version; `seconds`: the time that it took."""

    folder: Path
    info: EvaluationInfo
    evaluator: dict[str, str]
    score_source: str
    seconds: float

    def table(self, name: str) -> pd.DataFrame:
        """Reads one of records.TABLES."""
        return pd.read_parquet(self.folder / f"{name}.parquet")


class Evaluations:
    """The evaluations of a cell: resume/evaluation-<step>-<weights>/; `finished`: the existing ones, on rank 0."""

    def __init__(self, folder: ResumeFolder) -> None:
        self._folder = folder
        self.finished: list[Evaluated] = []

    def get_or_make(
        self, step: int, measure: Callable[[SharedCache], Measurement | None], save: Callable[[Path], None] | None
    ) -> Evaluated | None:
        """Returns the evaluation of the present weights: the stored one, or one made by `measure`, which may store
        parts of it. None on ranks other than 0, where `measure` returns None too.

        save: writes the weights, if they are to be stored with it. Raises Interrupted after a part if a signal came.
        """
        folder, place = self._folder, self._folder.place(f"evaluation-{step:08}")
        evaluation = folder.usable(f"evaluation at step {step}", place, self.read)
        if not ranks.same(folder.accelerator, evaluation is not None):
            evaluation = self._made(place, measure, save)
            folder.interrupts.check()
        if evaluation is not None:
            self.finished.append(evaluation)
        return evaluation

    def read(self, place: Path) -> Evaluated:
        """Reads an evaluation. Raises DataError if it is absent, of other settings, or has changed."""
        content = self._folder.read_content(place / EVALUATION)
        info = EvaluationInfo.model_validate(content["info"])
        return Evaluated(place, info, content["evaluator"], content["score_source"], content["seconds"])

    def _made(
        self, place: Path, measure: Callable[[SharedCache], Measurement | None], save: Callable[[Path], None] | None
    ) -> Evaluated | None:
        parts = PartsCache(self._folder, place.with_name(f"{place.name}.parts"))
        started = time.perf_counter()
        measurement = measure(parts)
        if measurement is None:
            return None
        with files.whole_folder(place, self._folder.check) as partial:
            for name, frame in measurement.tables.items():
                frame.to_parquet(partial / f"{name}.parquet", compression="zstd", index=False)
            if save is not None:
                save(partial / WEIGHTS)
            self._write_content(measurement, time.perf_counter() - started, partial)
        parts.remove()
        return self.read(place)

    def _write_content(self, measurement: Measurement, seconds: float, partial: Path) -> None:
        content = self._folder.content_of(
            partial,
            info=measurement.info.model_dump(mode="json"),
            evaluator={"engine": measurement.evaluation.engine, "version": measurement.evaluation.version},
            score_source=measurement.score_source,
            seconds=seconds,
        )
        files.write_json(partial / EVALUATION, content)


class PartsCache:
    """A SharedCache of JSON values (harness.records.cache), the finished parts of the evaluation in progress:
    resume/evaluation-<step>-<weights>.parts/<name>.json."""

    def __init__(self, folder: ResumeFolder, place: Path) -> None:
        self._folder, self._place = folder, place
        if folder.main:
            place.mkdir(exist_ok=True)

    @property
    def processes(self) -> int:
        count: int = self._folder.accelerator.num_processes
        return count

    def get_or_make(self, name: str, make: Callable[[], T], /) -> T:
        """Returns the value; all processes make it, and get that of rank 0."""
        accelerator = self._folder.accelerator
        values = ranks.same(accelerator, self._read([name]))
        if name not in values:
            value = make()
            if self._folder.main:
                self._write(name, value)
            values = ranks.same(accelerator, {name: value})
            self._folder.interrupts.check()
        result: T = values[name]
        return result

    def get_or_make_each(
        self, makers: Mapping[str, Callable[[], Any]], ready: Callable[[str], None] = lambda name: None
    ) -> list[Any]:
        """Returns all values, on rank 0; missing ones are made in waves, one value on each rank."""
        accelerator = self._folder.accelerator
        values = self._read(makers)
        for name in values:
            ready(name)
        missing = ranks.same(accelerator, [name for name in makers if name not in values])
        rank, processes = accelerator.process_index, accelerator.num_processes
        for start in range(0, len(missing), processes):
            wave = missing[start : start + processes]
            made = ranks.gathered(accelerator, makers[wave[rank]]() if rank < len(wave) else None)
            for name, value in zip(wave, made, strict=False):  # in the last wave some ranks have nothing to make
                self._write(name, value)
                values[name] = value
                ready(name)
            self._folder.interrupts.check()
        return [values[name] for name in makers] if self._folder.main else []

    def remove(self) -> None:
        """Removes the parts, once the whole evaluation replaces them."""
        self._folder.check()
        shutil.rmtree(self._place)

    def _write(self, name: str, value: Any) -> None:
        self._folder.check()
        files.write_json(self._place / f"{name}.json", value)

    def _read(self, names: Mapping[str, Any] | list[str]) -> dict[str, Any]:
        """Reads the stored values by name; nothing on ranks other than 0."""
        values = {}
        for path in (self._place / f"{name}.json" for name in names if self._folder.main):
            try:
                values[path.stem] = files.read_json(path)
            except DataError as error:
                if path.exists():
                    warn(f"a part of an evaluation is made again: {error}")
        return values
