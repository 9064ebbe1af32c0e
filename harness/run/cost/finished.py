"""Which cells are finished, told without reading weights or pictures: by the settings in their records.

A run tells by digests too; where weights or pictures have changed under the same settings, a cell counts as finished
here and is run again there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import records, registry
from harness.errors import DetmodesError
from harness.protocols import Predictor
from harness.records import CellInfo
from harness.records.layout import CELLS
from harness.run.context import Context
from harness.run.runner import cell_info
from harness.suite.cells import Cell

DIGIT_COUNT = 8
"""Of the digest in a folder's name."""


def is_finished(context: Context, output: Path, cell: Cell, made: Predictor) -> bool:
    """Whether the folder holds this cell with these settings, its tables intact. made: its model, or an outline."""
    wanted = _compared(cell_info(context, cell, registry.describe_model(cell.model.name, made), {}))
    for folder in _folders(output, cell):
        try:
            record = records.read_record(folder)
            if record.status == "finished" and _compared(record.cell) == wanted:
                records.verify_files(record, folder, [f"{name}.parquet" for name in records.TABLES])
                return True
        except DetmodesError:
            continue
    return False


def _folders(output: Path, cell: Cell) -> Iterator[Path]:
    if not (output / CELLS).is_dir():
        return
    for folder in sorted((output / CELLS).iterdir()):
        name, _, digest = folder.name.rpartition("-")
        if name == cell.id and len(digest) == DIGIT_COUNT:
            yield folder


def _compared(info: CellInfo) -> dict[str, Any]:
    """The settings, without digests of weights and pictures."""
    content = info.model_dump(mode="json")
    content.pop("pictures", None)
    content["model"] = {key: value for key, value in content["model"].items() if "digest" not in key}
    return content
