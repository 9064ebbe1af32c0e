"""Stores everything that lets a killed cell resume where it was (see harness.run.cell).

    resume/step-00000050/                    a checkpoint of training, see harness.training.checkpoints
    resume/evaluation-00000050-<weights>/    a finished evaluation: its tables, its figures, and perhaps the weights
    resume/evaluation-00000050-<weights>.parts/<name>.json   finished parts of the one in progress
    resume/table-<name>-<weights>/           a table that a stage made when it began, from the model at that time

The last three are in harness.run.resume_folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

from accelerate import Accelerator

from harness.inference.observed_precision import PrecisionObserver
from harness.records.log import Log
from harness.run.interval import CheckpointInterval
from harness.run.resume_folder import Evaluated, Evaluations, ResumeFolder, StageTables, warn
from harness.system import ranks
from harness.system.files import partials
from harness.system.interrupts import Interrupts, stop
from harness.training import checkpoints
from harness.training.checkpoints import Checkpoint, TrainingState

PRECISION = "precision.json"
"""See harness.inference.observed_precision."""


class CellCheckpointer:
    """The Checkpointer (harness.training.loop) of a cell, with everything that belongs to a checkpoint: the log, the
    evaluations and the tables of stages up to then, and the timings (seconds, those of earlier processes included).
    Also holds the observed number formats (`precision`), and whether an earlier process has left files (`goes_on`).

    Args:
        folder: `resume` of the cell. log: log of training. settings: what the result depends on: files stored under
        other settings are not used. every: interval between checkpoints; one is also made before each evaluation, and
        when a signal came. It is written in a thread while training goes on. interrupts: receives signals.
        accelerator: the processes that compute the cell; rank 0 reads and writes. check: called before anything is
        written or removed; raises where another process has taken the cell over.
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        settings: str,
        every: CheckpointInterval,
        interrupts: Interrupts,
        accelerator: Accelerator,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = log
        self.timings = {"train": 0.0, "waiting": 0.0, "evaluate": 0.0, "probe": 0.0}
        self._every, self._interrupts, self._accelerator = every, interrupts, accelerator
        self._folder = ResumeFolder(folder, settings, accelerator, interrupts, check)
        self.evaluations, self.tables = Evaluations(self._folder), StageTables(self._folder)
        self._checkpoint: Checkpoint | None = None
        self._clock, self._saved_at = clock, clock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Checkpoint] | None = None
        self.goes_on = folder.is_dir() and any(folder.iterdir())
        self.precision = PrecisionObserver(folder / PRECISION if self._folder.main else None)
        if not self._folder.main:
            return
        check()
        folder.mkdir(exist_ok=True)
        for leftover in partials(folder):
            shutil.rmtree(leftover)

    def reached(self, resumes: bool) -> int:
        """Returns the step of the newest usable checkpoint, 0 if there is none. resumes: see TrainingState."""
        if not resumes:
            self._forget()
        self._checkpoint = ranks.same(self._accelerator, self._newest())
        return 0 if self._checkpoint is None else int(self._checkpoint.content["step"])

    def restore(self, state: TrainingState) -> None:
        """Restores the state of that checkpoint, with what belongs to it; does nothing if there is none."""
        checkpoint = self._checkpoint
        if checkpoint is None:
            return
        checkpoints.restore(checkpoint, state, self._accelerator)
        if self._folder.main:
            self.evaluations.finished, self.tables.paths = self._read_named_by(checkpoint)
        self.log.restore(checkpoint.content["extra"]["log"])
        self.timings = checkpoint.content["extra"]["timings"]
        self._folder.weights = checkpoint.weights

    def after_step(self, state: TrainingState, evaluated: bool) -> None:
        """Saves the state where that is due. Raises Interrupted, once it is saved, if a signal came."""
        signal = self._interrupts.agreed()
        due = state.resumes and (evaluated or signal or self._is_due(state.step))
        if due and not self._folder.main:
            checkpoints.take_part(state)
        elif due:
            self._save(state)
        if evaluated or signal:  # an evaluation is stored under the weights; and nothing may follow a signal
            self._finish_writing()
        stop(signal)

    def __enter__(self) -> CellCheckpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the checkpoint being written. Its error is raised unless there is another one."""
        with suppress(Exception) if kind is not None else nullcontext():
            self._finish_writing()
        self._writer.shutdown()

    def _is_due(self, step: int) -> bool:
        """Tells whether the interval is over; if it is a time, by the clock of rank 0."""
        over = self._every.is_over(step, self._clock() - self._saved_at)
        if self._every.seconds is None:
            return over
        return bool(ranks.meet(self._accelerator, int(over and self._folder.main)))

    def _save(self, state: TrainingState) -> None:
        """Copies the state, and starts to write it."""
        self._finish_writing()
        self._saved_at = self._clock()
        extra = {
            "log": list(self.log.rows),
            "evaluations": [evaluation.folder.name for evaluation in self.evaluations.finished],
            "timings": dict(self.timings),
            "tables": {name: path.parent.name for name, path in self.tables.paths.items()},
        }
        copy = checkpoints.copy_of(state, self._folder.settings, extra)
        self._writing = self._writer.submit(checkpoints.write_copy, self._folder.path, copy, self._folder.check)

    def _finish_writing(self) -> None:
        """Waits until the newest checkpoint is written. Raises the error of writing it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._folder.weights = writing.result().weights

    def _warn(self, message: str) -> None:
        """Checks the lock before a useless file is removed, as everything may look useless to a process that lost the
        cell; then warns."""
        self._folder.check()
        warn(message)

    def _forget(self) -> None:
        """Makes training begin anew; stored results belong to other weights."""
        place = self._folder.path
        if self._folder.main and any(place.iterdir()):
            self._warn(
                "training cannot go on where it was, as there are no checkpoints under DeepSpeed: it begins anew"
            )
            shutil.rmtree(place)
            place.mkdir()

    def _newest(self) -> Checkpoint | None:
        if not self._folder.main:
            return None
        return checkpoints.newest(self._folder.path, self._folder.settings, self._read_named_by, self._warn)

    def _read_named_by(self, checkpoint: Checkpoint) -> tuple[list[Evaluated], dict[str, Path]]:
        """Reads the evaluations and tables that existed when the checkpoint was written; DataError if one is damaged,
        as its model is gone."""
        extra, place = checkpoint.content["extra"], self._folder.path
        tables = extra.get("tables", {})  # not in what earlier code wrote
        return (
            [self.evaluations.read(place / name) for name in extra["evaluations"]],
            {name: self.tables.read(place / folder) for name, folder in tables.items()},
        )
