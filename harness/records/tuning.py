"""Reads and writes the outcome of `tune:` of a suite: DIR/tuning.json, beside the cells that were trained with the
choice.

The trials are finished cells in DIR/tuning, each with a record.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from harness.errors import DataError
from harness.records.layout import TUNING
from harness.system.files import write_text
from harness.system.strict import StrictModel, first_problem


class TunedRow(StrictModel):
    """One row of a model: the figure of each candidate, None where its trial failed or has no such figure, and the
    chosen candidate."""

    model: str
    label: str
    values: tuple[float | None, ...]
    chosen: float


class TuningRecord(StrictModel):
    """How the learning rates of all rows were chosen: the same candidates, steps, seed and criterion for each.

    `criterion` AP: greedy, the highest is chosen; heldout_nll: nats per target token, the lowest. Both are of the
    calibration split, which no table shows. `steps` None: as many as the row is trained for.
    """

    candidates: tuple[float, ...]
    criterion: str
    seed: int
    steps: int | None
    rows: tuple[TunedRow, ...]

    def write(self, folder: Path) -> None:
        write_text(folder / TUNING, self.model_dump_json(indent=1) + "\n")


def read_tuning(folder: Path) -> TuningRecord | None:
    """Reads what was chosen for a run or a published folder; None where nothing was tuned. DataError (one line) where
    the file is not as it should be."""
    path = folder / TUNING
    try:
        return TuningRecord.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
