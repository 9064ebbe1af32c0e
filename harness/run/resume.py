"""What a cell keeps while it is computed, so that a killed one goes on where it was (see harness.run.cell).

    resume/step-00000050/                    training after a step, see harness.training.snapshots
    resume/evaluation-00000050-<weights>/    a finished evaluation: its tables, its figures, and the weights if kept
    resume/evaluation-00000050-<weights>.parts/<name>.json   finished parts of the one in progress
    resume/table-<name>-<weights>/           what a stage made when it began, of the model as it was then

An evaluation, or a table, belongs to the weights that it is of (the first digits of their digest): where training
repeats itself to the last bit it is found again, and where it does not it is made again.

Of several processes that compute the cell together (harness.system.ranks), all of which come here in the same order,
rank 0 reads and writes; it shares what it reads, and gathers what the others make.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from harness.errors import DataError
from harness.evaluation.evaluate import Measurement
from harness.evaluation.generation import Kept, Parts
from harness.records import EvaluationInfo
from harness.records.log import Log
from harness.system import files, ranks
from harness.system.files import partials
from harness.system.interrupts import Interrupts, stop
from harness.training import snapshots
from harness.training.snapshots import Snapshot, State

WEIGHTS = "model.safetensors"
CONTENT, TABLE = "evaluation.json", "table.json"
UNTRAINED = "base"


class ResumeWarning(UserWarning):
    """Something that was kept is of no use: what it held is computed again."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation on disk. `evaluator`: engine and version; `seconds`: what it took to make."""

    folder: Path
    info: EvaluationInfo
    evaluator: dict[str, str]
    score_source: str
    seconds: float

    def table(self, name: str) -> pd.DataFrame:
        """One of records.TABLES."""
        return pd.read_parquet(self.folder / f"{name}.parquet")


class Resume:
    """The `resume` folder of a cell, and the log beside it. timings: seconds, those of earlier processes included.
    tables: the file of each that a stage began with, by name; on rank 0.

    settings: what the result depends on: what was kept under other ones is of no use. every: steps between two
    snapshots; one is also made before each evaluation, and when a signal came.
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        settings: str,
        every: int,
        interrupts: Interrupts,
        accelerator: Accelerator,
    ) -> None:
        self.log = log
        self.evaluations: list[Evaluated] = []
        self.tables: dict[str, Path] = {}
        self.timings = {"train": 0.0, "waiting": 0.0, "evaluate": 0.0, "probe": 0.0}
        self._folder, self._settings, self._every, self._interrupts = folder, settings, every, interrupts
        self._accelerator, self._main = accelerator, accelerator.is_main_process
        self._weights = UNTRAINED
        self._snapshot: Snapshot | None = None
        if not self._main:
            return
        folder.mkdir(exist_ok=True)
        for leftover in partials(folder):
            shutil.rmtree(leftover)

    # ---- training (the protocol harness.training.loop.Keeper) ---------------------------------------------

    def reached(self, resumes: bool) -> int:
        """The step of the newest usable snapshot, 0 if there is none. resumes: see harness.training.snapshots.State."""
        if not resumes:
            self._forget()
        self._snapshot = ranks.same(self._accelerator, self._newest())
        return 0 if self._snapshot is None else int(self._snapshot.content["step"])

    def restore(self, state: State) -> None:
        """Puts the state of the snapshot that was `reached` in place; leaves everything as it is if there is none."""
        found = self._snapshot
        if found is None:
            return
        snapshots.restore(found, state, self._accelerator)
        self.evaluations, self.tables = self._named_by(found) if self._main else ([], {})
        self.log.restore(found.content["extra"]["log"])
        self.timings = found.content["extra"]["timings"]
        self._weights = found.weights

    def _forget(self) -> None:
        """Training begins anew whatever there is, and what was kept is of other weights."""
        if self._main and any(self._folder.iterdir()):
            _warn("training cannot go on where it was, as there are no snapshots under DeepSpeed: it begins anew")
            shutil.rmtree(self._folder)
            self._folder.mkdir()

    def _newest(self) -> Snapshot | None:
        if not self._main:
            return None
        return snapshots.newest(self._folder, self._settings, self._named_by, _warn)

    def after_step(self, state: State, evaluated: bool) -> None:
        """evaluated: the model is going to be evaluated as it is now. Raises Interrupted if a signal came."""
        signal = self._interrupts.agreed()
        due = state.resumes and (evaluated or signal or state.step % self._every == 0)
        if due and not self._main:
            snapshots.take_part(state)
        elif due:
            names = [own.folder.name for own in self.evaluations]
            tables = {name: path.parent.name for name, path in self.tables.items()}
            extra = {"log": self.log.rows, "evaluations": names, "timings": self.timings, "tables": tables}
            self._weights = snapshots.write(self._folder, state, self._settings, extra).weights
        stop(signal)

    def _named_by(self, snapshot: Snapshot) -> tuple[list[Evaluated], dict[str, Path]]:
        """Evaluations and tables that had been made when it was written; DataError if one is damaged: its model is
        gone."""
        extra = snapshot.content["extra"]
        tables = extra.get("tables", {})  # not in what earlier code wrote
        return (
            [self._read(self._folder / name) for name in extra["evaluations"]],
            {name: self._read_table(name, self._folder / folder) for name, folder in tables.items()},
        )

    # ---- what stages begin with --------------------------------------------------------------------------------------

    def table(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """See harness.training.stage.KeepTable. Raises Interrupted, when it is kept, if a signal came."""
        folder = self._folder / f"table-{name}-{self._weights[:16]}"
        kept = self.tables.get(name) or self._found_table(name, folder)
        if not ranks.same(self._accelerator, kept is not None):
            made = make()
            if self._main:
                kept = self._keep_table(name, folder, made)
            self._interrupts.check()
        if kept is not None:
            self.tables[name] = kept
        return ranks.same(self._accelerator, pd.DataFrame() if kept is None else pd.read_parquet(kept))

    def _found_table(self, name: str, folder: Path) -> Path | None:
        if not self._main:
            return None
        try:
            return self._read_table(name, folder)
        except DataError as error:
            if folder.exists():
                _warn(f"table {name} is made again: {error}")
        return None

    def _keep_table(self, name: str, folder: Path, made: pd.DataFrame) -> Path:
        with files.whole_folder(folder) as partial:
            made.to_parquet(partial / f"{name}.parquet", compression="zstd", index=False)
            files.write_json(partial / TABLE, {"settings": self._settings, "files": _digests(partial)})
        return self._read_table(name, folder)

    def _read_table(self, name: str, folder: Path) -> Path:
        self._verified(folder / TABLE)
        return folder / f"{name}.parquet"

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(
        self, step: int, measured: Callable[[Kept], Measurement | None], save: Callable[[Path], None] | None
    ) -> Evaluated | None:
        """The evaluation of the present weights: as it was kept, or made by `measured`, which may keep parts of it.
        None on ranks other than 0, where `measured` returns None too.

        save: writes the weights, where they are to be kept with it. Raises Interrupted after a part if a signal came.
        """
        folder = self._folder / f"evaluation-{step:08}-{self._weights[:16]}"
        found = self._found(folder, step)
        if not ranks.same(self._accelerator, found is not None):
            found = self._made(folder, measured, save)
            self._interrupts.check()
        if found is not None:
            self.evaluations.append(found)
        return found

    def _found(self, folder: Path, step: int) -> Evaluated | None:
        if not self._main:
            return None
        try:
            return self._read(folder)
        except DataError as error:
            if folder.exists():
                _warn(f"evaluation at step {step} is made again: {error}")
        return None

    def _made(
        self, folder: Path, measured: Callable[[Kept], Measurement | None], save: Callable[[Path], None] | None
    ) -> Evaluated | None:
        parts = folder.with_name(f"{folder.name}.parts")
        if self._main:
            parts.mkdir(exist_ok=True)
        started = time.perf_counter()
        measurement = measured(lambda own, there: self._parts(parts, own, there))
        if measurement is None:
            return None
        with files.whole_folder(folder) as partial:
            for name, frame in measurement.tables.items():
                frame.to_parquet(partial / f"{name}.parquet", compression="zstd", index=False)
            if save is not None:
                save(partial / WEIGHTS)
            files.write_json(partial / CONTENT, self._content(measurement, time.perf_counter() - started, partial))
        shutil.rmtree(parts)
        return self._read(folder)

    def _content(self, measurement: Measurement, seconds: float, folder: Path) -> Mapping[str, Any]:
        return {
            "settings": self._settings,
            "info": measurement.info.model_dump(mode="json"),
            "evaluator": {"engine": measurement.evaluation.engine, "version": measurement.evaluation.version},
            "score_source": measurement.score_source,
            "seconds": seconds,
            "files": _digests(folder),
        }

    def _read(self, folder: Path) -> Evaluated:
        """Raises DataError if it is not there, of other settings, or not what was written."""
        content = self._verified(folder / CONTENT)
        info = EvaluationInfo.model_validate(content["info"])
        return Evaluated(folder, info, content["evaluator"], content["score_source"], content["seconds"])

    def _verified(self, path: Path) -> dict[str, Any]:
        """What was written of a folder into this file of it; raises DataError as `_read` does."""
        content: dict[str, Any] = files.read_json(path)
        if content["settings"] != self._settings:
            raise DataError(f"{path}: settings: expected {self._settings}, got {content['settings']}")
        for name, expected in content["files"].items():
            if not path.with_name(name).is_file() or files.sha256(path.with_name(name)) != expected:
                raise DataError(f"{path.with_name(name)}: missing, or not what was written")
        return content

    # ---- parts of an evaluation --------------------------------------------------------------------------------------

    def _parts(self, folder: Path, parts: Parts, there: Callable[[str], None]) -> list[Any]:
        """A Kept: what is missing is made in waves, one part on each rank."""
        values = self._kept(folder, parts)
        for name in values:
            there(name)
        missing = ranks.same(self._accelerator, [name for name in parts if name not in values])
        own, processes = self._accelerator.process_index, self._accelerator.num_processes
        for start in range(0, len(missing), processes):
            wave = missing[start : start + processes]
            made = ranks.gathered(self._accelerator, parts[wave[own]]() if own < len(wave) else None)
            for name, value in zip(wave, made, strict=False):  # no part was left for the others
                files.write_json(folder / f"{name}.json", value)
                values[name] = value
                there(name)
            self._interrupts.check()
        return [values[name] for name in parts] if self._main else []

    def _kept(self, folder: Path, parts: Parts) -> dict[str, Any]:
        """By name, as JSON has them; nothing on ranks other than 0."""
        values = {}
        for path in (folder / f"{name}.json" for name in parts if self._main):
            try:
                values[path.stem] = files.read_json(path)
            except DataError as error:
                if path.exists():
                    _warn(f"a part of an evaluation is made again: {error}")
        return values


def _digests(folder: Path) -> dict[str, str]:
    """Of the files in it."""
    return {path.name: files.sha256(path) for path in sorted(folder.iterdir())}


def _warn(message: str) -> None:
    warnings.warn(message, ResumeWarning, stacklevel=2)
