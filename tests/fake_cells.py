"""Output folders of runs that never ran: a simulated detector, real metrics, and valid records.

The detector finds each object with probability `found`, names it by a choice whose evenness is `evenness`
(0: always the first name, 1: uniform), and shifts its box by `jitter` pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import records
from harness.metrics import ap
from harness.metrics.diversity import CategoryRow, ImageRow, category_rows, image_row
from harness.metrics.matching import match_sample
from harness.records import CategoryInfo, CellInfo, EvaluationInfo, Record
from harness.suite import Cell, Suite, cells
from harness.types import Box, Category, Detection, Detections, Example, Instance, Mention, Parsed

CODE = {"version": "0.1.0", "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}
CATEGORIES = (
    Category(1, ("disc", "circle", "dot"), "f"),
    Category(2, ("box", "square"), "f"),
    Category(3, ("star",), "c"),
    Category(4, ("ring", "hoop", "loop", "band"), "c"),
    Category(5, ("cross", "plus"), "r"),
)


@dataclass(frozen=True, slots=True)
class Skill:
    found: float
    evenness: float
    jitter: float = 1.0


DETECTORS = {
    "base": (Skill(0.55, 0.95, 4.0),),
    "ce": (Skill(0.70, 0.50, 2.5), Skill(0.80, 0.20, 2.0), Skill(0.85, 0.05, 1.5)),
    "sed": (Skill(0.68, 0.70, 2.5), Skill(0.76, 0.60, 2.0), Skill(0.80, 0.55, 1.6)),
    "oracle-uniform": (Skill(1.0, 1.0, 0.0),),
    "oracle-collapsed": (Skill(1.0, 0.0, 0.0),),
}


def suite(**changes: Any) -> Suite:
    content = {
        "suite": "fake",
        "benchmark": "shapes",
        "models": ["toy"],
        "objectives": ["ce", {"name": "sed_sft", "label": "sed"}],
        "seeds": [0, 1],
        "train": {"steps": 240, "eval_at": [60, 120]},
        "sample": {"samples": 4},
        "early_stops": [{"label": "ce_early", "objective": "ce", "at_ap_of": "sed"}],
        "hypotheses": [
            {"id": "H1", "claim": "SED keeps more", "metric": "name_diversity", "a": "sed", "b": "ce"},
            {"id": "H2", "claim": "at no loss", "metric": "AP", "a": "sed", "b": "ce", "margin": -0.01},
            {"id": "H3", "claim": "even so", "metric": "name_diversity", "a": "ce_early", "b": "sed"},
        ],
    }
    return Suite.model_validate(content | changes)


def write_run(
    folder: Path,
    suite: Suite,
    images: int = 30,
    detectors: Mapping[str, Sequence[Skill]] = DETECTORS,
    failed: Sequence[tuple[str, int]] = (),
    missing: Sequence[tuple[str, int]] = (),
) -> Path:
    """An output folder with all cells of the suite; `failed` and `missing` name cells as (row label, seed)."""
    examples = make_examples(images)
    digests = []
    for cell in cells(suite):
        info = _info(suite, cell)
        digests.append(records.digest_of(info))
        if (cell.label, cell.seed) in missing:
            continue
        path = folder / "cells" / f"{cell.id}-{digests[-1][:8]}"
        path.mkdir(parents=True, exist_ok=True)
        if (cell.label, cell.seed) in failed:
            records.write(_record(suite, cell, info, status="failed", error="ValueError: no luck"), path)
        else:
            _write_cell(path, suite, cell, info, examples, detectors[cell.label])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.json").write_text(suite.model_dump_json(indent=1) + "\n")
    (folder / "cells.json").write_text(json.dumps(digests, indent=1) + "\n")
    return folder


def rewrite(cell: Path, /, **changes: Any) -> None:
    """Changes fields of a record on disk."""
    content = json.loads((cell / records.RECORD).read_text())
    (cell / records.RECORD).write_text(json.dumps(content | changes))


def make_examples(images: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [_example(rng, image_id) for image_id in range(100, 100 + images)]


def _example(rng: np.random.Generator, image_id: int) -> Example:
    chosen = rng.choice(len(CATEGORIES), size=rng.integers(1, 5), p=(0.35, 0.25, 0.2, 0.15, 0.05))
    instances = tuple(
        Instance(
            index, int(category) + 1, Box(*map(float, rng.integers(0, 64, 2)), *map(float, rng.integers(12, 28, 2)))
        )
        for index, category in enumerate(chosen, 1)
    )
    absent = frozenset(range(1, len(CATEGORIES) + 1)) - {instance.category_id for instance in instances}
    return Example(image_id, Path("image.png"), 96, 96, instances, negative=absent)


def _write_cell(
    path: Path, suite: Suite, cell: Cell, info: CellInfo, examples: Sequence[Example], skills: Sequence[Skill]
) -> None:
    steps = suite.train.evaluations[-len(skills) :] if cell.role == "trained" else (0,)
    rng = np.random.default_rng([cell.seed, len(cell.label), sum(map(ord, cell.label))])
    measured = [
        _measure(rng, step, examples, skill, suite.sample.samples) for step, skill in zip(steps, skills, strict=True)
    ]
    pd.concat([images for _, images, _ in measured]).to_parquet(path / "images.parquet", index=False)
    pd.concat([detections for _, _, detections in measured]).to_parquet(path / "detections.parquet", index=False)
    record = _record(
        suite,
        cell,
        info,
        status="finished",
        image_ids=tuple(example.image_id for example in examples),
        evaluator={"engine": "hotcoco", "version": "1.3.1"},
        score_source="constant" if cell.role == "oracle" else suite.score,
        evaluations=tuple(item[0] for item in measured),
        curve=_curve(rng, suite, cell) if cell.role == "trained" else (),
        files={file.name: records.sha256(file) for file in sorted(path.glob("*.parquet"))},
    )
    records.write(record, path)


def _measure(
    rng: np.random.Generator, step: int, examples: Sequence[Example], skill: Skill, samples: int
) -> tuple[EvaluationInfo, pd.DataFrame, pd.DataFrame]:
    rows: list[CategoryRow] = []
    per_image: list[ImageRow] = []
    detections: list[Detection] = []
    for example in examples:
        emitted = [_mentions(rng, example, skill) for _ in range(samples)]
        matched = [match_sample(example, mentions) for mentions in emitted]
        rows += category_rows(example, list(zip(emitted, matched, strict=True)))
        parsed = [Parsed(tuple(mentions), malformed=0, truncated=False) for mentions in emitted]
        per_image.append(image_row(example, list(zip(parsed, matched, strict=True))))
        greedy = _mentions(rng, example, Skill(skill.found, 0.0, skill.jitter))
        detections += [
            Detection(example.image_id, mention.category_id, mention.box, float(rng.uniform(0.3, 1.0)))
            for mention in greedy
            if mention.category_id is not None
        ]
    frame, official = _detections(step, examples, detections)
    info = EvaluationInfo(
        step=step, metrics={"AP": official}, diversity={}, per_category={}, heldout_nll=2.0 - skill.found - 0.001 * step
    )
    return info, records.image_frame(step, rows, per_image), frame


def _mentions(rng: np.random.Generator, example: Example, skill: Skill) -> list[Mention]:
    return [_mention(rng, item, skill) for item in example.instances if rng.random() < skill.found]


def _mention(rng: np.random.Generator, instance: Instance, skill: Skill) -> Mention:
    names = CATEGORIES[instance.category_id - 1].names
    name = str(rng.choice(names)) if rng.random() < skill.evenness else names[0]
    x, y = rng.normal(0, skill.jitter, 2) if skill.jitter else (0.0, 0.0)
    box = instance.box
    return Mention(name, instance.category_id, Box(box.x + x, box.y + y, box.w, box.h))


def _detections(
    step: int, examples: Sequence[Example], detections: Sequence[Detection]
) -> tuple[pd.DataFrame, float | None]:
    """detections.parquet, and the official AP."""
    matches = ap.match(examples, Detections.of(detections), CATEGORIES)
    chosen = [detections[index] for index in matches.detection]
    frame = pd.DataFrame(
        {
            "step": step,
            "image_id": [item.image_id for item in chosen],
            "category_id": [item.category_id for item in chosen],
            **{side: [getattr(item.box, side) for item in chosen] for side in ("x", "y", "w", "h")},
            "score": [item.score for item in chosen],
            "evaluated": True,
            "true_positive": matches.true_positive,
            "ignored": matches.ignored,
        }
    )
    figures = ap.average_precision(matches, len(CATEGORIES))
    official = float(ap.summarise(figures, [item.frequency for item in CATEGORIES])["AP"][0])
    return frame, None if np.isnan(official) else official


def _curve(rng: np.random.Generator, suite: Suite, cell: Cell) -> tuple[dict[str, Any], ...]:
    steps = range(20, suite.train.steps + 1, 20)
    noise = dict(zip(steps, rng.normal(0, 0.02, len(steps)), strict=True))
    slow = 1.0 if cell.label == "ce" else 2.0
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "loss": 0.4 + np.exp(-step / 80) + noise[step],
            "p_y": 1 - 0.6 * np.exp(-step / (80 * slow)) + noise[step] / 4,
            "entropy": 1.2 * np.exp(-step / (100 * slow)) + abs(noise[step]),
        }
        for step in steps
    ]
    for row in rows:
        if cell.label != "ce":
            row["selected"] = 0.3 * np.exp(-row["step"] / 200)
    return tuple(rows)


def _info(suite: Suite, cell: Cell) -> CellInfo:
    return CellInfo(
        benchmark={"name": "fake"},
        model={"name": cell.model.name, "label": cell.model.label},
        objective=None if cell.objective is None else cell.objective.model_dump(mode="json"),
        seed=cell.seed,
        train=None if cell.objective is None else suite.train.model_dump(mode="json"),
        sample=suite.sample.model_dump(mode="json"),
        score=suite.score,
    )


def _record(suite: Suite, cell: Cell, info: CellInfo, **fields: Any) -> Record:
    return Record(
        suite=suite.suite,
        label=cell.label,
        model_label=cell.model.label,
        role=cell.role,
        cell=info,
        digest=records.digest_of(info),
        categories=tuple(CategoryInfo(id=c.id, names=c.names, frequency=c.frequency) for c in CATEGORIES),
        code=CODE,
        packages={"python": "3.11.9"},
        device={"type": "cpu", "name": "x86_64", "threads": 2, "precision": "float32"},
        **fields,
    )
