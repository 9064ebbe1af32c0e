"""What a finished cell leaves behind (DESIGN 6.6): one folder with a record and its tables.

    record.json          this schema; everything else in the folder is named in it with its sha256
    images.parquet       per evaluation step, image and category: counts that figures and intervals need
    detections.parquet   per evaluation step and detection of the greedy answer: box, score, match
    samples.parquet      one row per sample, empty ones too
    mentions.parquet     one row per mention
    model.safetensors    the fine-tuned weights, if kept

Tables, figures and verdicts are functions of the record and the first two tables. A record is written last
and by renaming, so a folder with a valid record is a finished (or cleanly failed) cell and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import DataError
from harness.files import write_text
from harness.metrics.aggregate import CategoryTable, ImageTable, category_table, image_table
from harness.metrics.ap import Matches
from harness.metrics.diversity import CategoryRow, ImageRow
from harness.types import Category, Frequency

FORMAT = 1
"""Raise when the meaning of a record changes: it is part of every cell's digest, so old cells are run again."""
RECORD = "record.json"
TABLES = ("images", "detections", "samples", "mentions")
PUBLISHED_TABLES = ("images", "detections")

Figures = dict[str, float | None]
Role = Literal["base", "trained", "oracle"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CategoryInfo(_Strict):
    id: int
    names: tuple[str, ...]
    frequency: Frequency | None


class CellInfo(_Strict):
    """All settings, resolved; with the record's format they are what the digest is made of."""

    benchmark: dict[str, Any]
    model: dict[str, Any]
    objective: dict[str, Any] | None
    """None where nothing is trained (the base and the oracles)."""
    seed: int
    train: dict[str, Any] | None
    sample: dict[str, Any]
    score: str


class EvaluationInfo(_Strict):
    """Figures at one training step: point estimates of this seed, undefined ones None."""

    step: int
    metrics: Figures
    """Official figures of the evaluator for the greedy answer."""
    diversity: Figures
    """DESIGN 6.4, over all categories, and by frequency with the suffix /r, /c, /f."""
    per_category: dict[int, Figures]
    heldout_nll: float | None
    """Cross-entropy in nats per target token on the calibration split, canonical targets."""


class Record(_Strict):
    format: int = FORMAT
    status: Literal["finished", "failed"]
    error: str | None = None
    suite: str
    label: str
    """The row it belongs to: "base", an objective's label, or an oracle's name."""
    model_label: str
    role: Role
    cell: CellInfo
    digest: str
    threshold: float | None = None
    """SED-SFT's threshold, where a quantile was calibrated."""
    collision_rate: float | None = None
    """Share of the training sequences that shared their image with another one of their batch."""
    categories: tuple[CategoryInfo, ...] = ()
    image_ids: tuple[int, ...] = ()
    data: dict[str, Any] = {}
    model: dict[str, Any] = {}
    code: dict[str, Any]
    packages: dict[str, str]
    device: dict[str, Any]
    evaluator: dict[str, str] = {}
    score_source: str = ""
    evaluations: tuple[EvaluationInfo, ...] = ()
    curve: tuple[dict[str, Any], ...] = ()
    timings: dict[str, float] = {}
    peak_memory_mib: float | None = None
    files: dict[str, str] = {}
    """Name -> sha256 of every other file of the cell."""

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(evaluation.step for evaluation in self.evaluations)

    def evaluation(self, step: int) -> EvaluationInfo:
        return next(item for item in self.evaluations if item.step == step)


def write(record: Record, folder: Path) -> None:
    """Atomically, see `files.write_text`."""
    write_text(folder / RECORD, record.model_dump_json(indent=1) + "\n")


def read(folder: Path) -> Record:
    """The record of a cell's folder. Raises DataError (one line: file, field, expectation)."""
    path = folder / RECORD
    try:
        record = Record.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no record here") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: field {where or '(file)'}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if record.format != FORMAT:
        raise DataError(f"{path}: expected record format {FORMAT}, got {record.format}; run the cell again")
    return record


def verify_files(record: Record, folder: Path, names: Sequence[str]) -> None:
    """Each named file of the cell is there and is the one that the record describes."""
    for name in names:
        path = folder / name
        if name not in record.files:
            raise DataError(f"{folder / RECORD}: files: expected {name}, got {sorted(record.files)}")
        if not path.is_file() or sha256(path) != record.files[name]:
            raise DataError(f"{path}: missing, or not the file that {RECORD} describes")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(cell: CellInfo) -> str:
    """Names a cell: the same settings give the same 64 hex digits."""
    text = json.dumps([FORMAT, cell.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# ---- tables <-> the arrays that metrics work on ------------------------------------------------------------------


def image_frame(step: int, categories: Sequence[CategoryRow], images: Sequence[ImageRow]) -> pd.DataFrame:
    """Rows of images.parquet: one per image and category with ground truth, and one per image (no category)."""
    fields = [
        *CategoryRow.__dataclass_fields__,
        *(f for f in ImageRow.__dataclass_fields__ if f != "image_id"),
    ]
    rows = [*categories, *images]
    columns = {field: [getattr(row, field, None) for row in rows] for field in fields}
    frame = pd.DataFrame(columns)
    whole = ["category_id", "instances", *_counts()]
    frame[whole] = frame[whole].astype("Int64")
    frame.insert(0, "step", step)
    return frame


def _counts() -> list[str]:
    return ["samples", "mentions", "duplicates", "hallucinations", "unknown_names", "malformed", "truncated"]


def tables(frame: pd.DataFrame, step: int, record: Record) -> tuple[CategoryTable, ImageTable]:
    """images.parquet at one step as the arrays that harness.metrics.aggregate takes."""
    at_step = frame[frame["step"] == step]
    per_category = at_step[at_step["category_id"].notna()]
    per_image = at_step[at_step["category_id"].isna()]
    samples = int(per_image["samples"].max())
    categories = [Category(info.id, info.names, info.frequency) for info in record.categories]
    category_rows = [CategoryRow(**row) for row in _dicts(per_category, CategoryRow)]
    image_rows = [ImageRow(**row) for row in _dicts(per_image, ImageRow)]
    return (
        category_table(category_rows, record.image_ids, categories, samples),
        image_table(image_rows, record.image_ids),
    )


def _dicts(frame: pd.DataFrame, row: type) -> list[dict[str, Any]]:
    fields = list(row.__dataclass_fields__)  # type: ignore[attr-defined]
    clean = frame[fields].astype(object).where(frame[fields].notna(), None)
    return [dict(zip(fields, values, strict=True)) for values in clean.itertuples(index=False, name=None)]


def matches(images: pd.DataFrame, detections: pd.DataFrame, step: int, record: Record) -> Matches:
    """detections.parquet at one step as the arrays that harness.metrics.ap takes. Order is kept: ties are
    ranked as they were when the cell was evaluated."""
    image = {image_id: index for index, image_id in enumerate(record.image_ids)}
    category = {info.id: index for index, info in enumerate(record.categories)}
    found = detections[(detections["step"] == step) & detections["evaluated"]]
    truth = images[(images["step"] == step) & images["category_id"].notna()]
    return Matches(
        n_images=len(record.image_ids),
        detection=np.arange(len(found)),
        image=_indices(found["image_id"], image),
        category=_indices(found["category_id"], category),
        score=found["score"].to_numpy(np.float64),
        true_positive=found["true_positive"].to_numpy(np.uint16),
        ignored=found["ignored"].to_numpy(np.bool_),
        gt_image=_indices(truth["image_id"], image),
        gt_category=_indices(truth["category_id"], category),
        gt_count=truth["instances"].to_numpy(np.int64),
        # Records from before COCO's crowd regions were known have no such column.
        left_out=found["left_out"].to_numpy(np.uint16) if "left_out" in found else None,
    )


def _indices(values: pd.Series[Any], index: dict[int, int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([index[int(value)] for value in values], dtype=np.int64)
