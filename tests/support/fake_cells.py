"""Output folders of runs that never ran: a simulated detector, real metrics, and valid records.

The detector finds each object with probability `found`, names it by a choice whose evenness is `evenness`
(0: always the first name, 1: uniform), and shifts its box by `jitter` pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import records
from harness.metrics.detection import ap
from harness.metrics.samples.diversity import category_table, image_table
from harness.metrics.samples.matching import verify
from harness.metrics.samples.mentions import answers_of, truth_of
from harness.records import CategoryInfo, CellInfo, EvaluationInfo, Record, tables
from harness.suite.cells import UNTRAINED_SEED, Cell, cells
from harness.suite.schema import Suite
from harness.system.files import sha256
from harness.types import Box, Category, Detection, Detections, Example, Instance, Mention, Parsed
from tests.support.fake_curves import curve, probe

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
    recall: float
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
        "train": {"steps": 240, "eval_at": [60, 120], "probe": {"every": 60}},
        "sample": {"samples": 4, "temperatures": [0.5, 2.0]},
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
    untrained: Sequence[int] = (UNTRAINED_SEED,),
) -> Path:
    """An output folder with all cells of the suite; `failed` and `missing` name cells as (row label, seed), `untrained`
    are the seeds of the base and the oracles."""
    digests = []
    for cell in cells(suite, untrained):
        info = _info(suite, cell)
        digests.append(records.digest_of(info))
        if (cell.label, cell.seed) in missing:
            continue
        path = folder / "cells" / f"{cell.id}-{digests[-1][:8]}"
        path.mkdir(parents=True, exist_ok=True)
        if (cell.label, cell.seed) in failed:
            records.write_record(_record(suite, cell, info, status="failed", error="ValueError: no luck"), path)
        else:
            _write_cell(path, suite, cell, info, images, tuple(detectors[cell.label]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.json").write_text(suite.model_dump_json(indent=1) + "\n")
    (folder / "cells.json").write_text(json.dumps(digests, indent=1) + "\n")
    return folder


def rewrite(cell: Path, /, **changes: Any) -> None:
    """Changes fields of a record on disk."""
    content = json.loads((cell / records.RECORD).read_text())
    (cell / records.RECORD).write_text(json.dumps(content | changes))


def drop_columns(cell: Path, columns: Mapping[str, Sequence[str]], of_consensus: bool) -> None:
    """Takes columns out of a cell's tables, and what is known of the consensus, as if older code had made it."""
    for name, dropped in columns.items():
        path = cell / f"{name}.parquet"
        frame = pd.read_parquet(path)
        if of_consensus and name == "detections":
            frame = frame[frame["temperature"] == records.GREEDY]
        frame.drop(columns=list(dropped)).to_parquet(path, index=False)
    content = json.loads((cell / records.RECORD).read_text())
    evaluations = [{key: value for key, value in item.items() if key != "consensus"} for item in content["evaluations"]]
    files = {path.name: sha256(path) for path in sorted(cell.glob("*.parquet"))}
    rewrite(cell, evaluations=evaluations, files=files)


@cache
def make_examples(images: int) -> tuple[Example, ...]:
    rng = np.random.default_rng(0)
    return tuple(_example(rng, image_id) for image_id in range(100, 100 + images))


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


def _write_cell(path: Path, suite: Suite, cell: Cell, info: CellInfo, images: int, skills: tuple[Skill, ...]) -> None:
    steps = tuple(_evaluated(suite, cell)[-len(skills) :])
    sampled = (suite.sample.samples, tuple(suite.sample.curve), suite.sample.temperature)
    generator, measured = _measured(cell.label, cell.seed, images, steps, skills, *sampled)
    rng = deepcopy(generator)
    pd.concat([images for _, images, _, _ in measured]).to_parquet(path / "images.parquet", index=False)
    pd.concat([detections for _, _, detections, _ in measured]).to_parquet(path / "detections.parquet", index=False)
    measured[-1][-1].to_parquet(path / records.GALLERY, index=False)
    record = _record(
        suite,
        cell,
        info,
        status="finished",
        image_ids=tuple(example.image_id for example in make_examples(images)),
        evaluator={"engine": "hotcoco", "version": "1.3.1"},
        score_source="constant" if cell.role == "oracle" else suite.score,
        evaluations=tuple(item[0] for item in measured),
        curve=curve(rng, suite, cell) if cell.role == "trained" else (),
        probe=probe(suite, cell) if cell.role == "trained" else (),
        own_peak_mib=900.0 + len(cell.label) + cell.seed,
        files={file.name: sha256(file) for file in sorted(path.glob("*.parquet"))},
    )
    records.write_record(record, path)


Measured = tuple[EvaluationInfo, pd.DataFrame, pd.DataFrame, pd.DataFrame]


@cache
def _measured(
    label: str,
    seed: int,
    images: int,
    steps: tuple[int, ...],
    skills: tuple[Skill, ...],
    samples: int,
    curve: tuple[float, ...],
    main: float,
) -> tuple[np.random.Generator, list[Measured]]:
    """What a cell finds at every step, and the generator as it is then: suites share most of their cells."""
    rng = np.random.default_rng([seed, len(label), sum(map(ord, label))])
    return rng, [
        _measure(rng, step, make_examples(images), skill, samples, curve if last else (main,), main, last)
        for step, skill in zip(steps, skills, strict=True)
        for last in [step == steps[-1]]
    ]


def _evaluated(suite: Suite, cell: Cell) -> list[int]:
    """Steps, those of later stages included."""
    start, steps = 0, []
    for plan in () if cell.objective is None else suite.plans_of(cell.model, cell.objective):
        steps += [start + step for step in plan.evaluations]
        start += plan.steps
    return steps or [0]


def _measure(
    rng: np.random.Generator,
    step: int,
    examples: Sequence[Example],
    skill: Skill,
    samples: int,
    heats: Sequence[float],
    main: float,
    last: bool,
) -> Measured:
    """Record entry, images.parquet, detections.parquet, gallery.parquet."""
    truth = truth_of(examples, CATEGORIES)
    ids, names = [c.id for c in CATEGORIES], np.array([len(c.names) for c in CATEGORIES])
    greedy = _greedy(rng, examples, skill)
    frame, official = _detections(step, records.GREEDY, examples, greedy)
    images, detections, consensus = [], [frame], None
    for heat in heats:
        hot = Skill(skill.recall / max(1.0, heat), min(1.0, skill.evenness * heat), skill.jitter)
        mentions = [[_mentions(rng, example, hot) for _ in range(samples)] for example in examples]
        answers = answers_of(
            [[Parsed(tuple(of_sample), 0, False) for of_sample in each] for each in mentions], CATEGORIES
        )
        verification = verify(truth, answers.mentions)
        table = category_table(truth, answers, verification, names)
        images.append(tables.image_frame(step, heat, truth, ids, table, image_table(truth, answers, verification)))
        if heat == main:
            gallery = _gallery(mentions, (verification.instance >= 0).tolist(), examples)
        if last:
            steadier = _greedy(rng, examples, Skill(skill.recall, 0.0, skill.jitter / 2))
            frame, of_consensus = _detections(step, heat, examples, steadier)
            detections.append(frame)
            consensus = of_consensus if heat == main else consensus
    info = EvaluationInfo(
        step=step,
        metrics={"AP": official},
        consensus={"AP": consensus} if last else {},
        diversity={},
        heldout_nll=2.0 - skill.recall - 0.001 * step,
    )
    return info, pd.concat(images), pd.concat(detections), gallery


def _gallery(
    of_images: Sequence[Sequence[Sequence[Mention]]], verified: Sequence[bool], examples: Sequence[Example]
) -> pd.DataFrame:
    """What gallery.parquet holds, of the first two images."""
    flags = iter(verified)
    rows: list[dict[str, Any]] = []
    for example, samples in zip(examples, of_images, strict=True):
        for sample, mentions in enumerate(samples):
            empty = {"image_id": example.image_id, "sample": sample, "verified": False}
            shown = [
                empty
                | {"position": position, "name": item.name, "category_id": item.category_id, "verified": next(flags)}
                | {side: getattr(item.box, side) for side in "xywh"}
                for position, item in enumerate(mentions)
            ]
            rows += shown or [empty]
    frame = pd.DataFrame(rows, columns=["image_id", "sample", "position", "name", "category_id", *"xywh", "verified"])
    frame = frame.astype({"position": "Int64", "category_id": "Int64"})
    return frame[frame["image_id"] < examples[0].image_id + 2].reset_index(drop=True)


def _greedy(rng: np.random.Generator, examples: Sequence[Example], skill: Skill) -> list[Detection]:
    return [
        Detection(example.image_id, mention.category_id, mention.box, float(rng.uniform(0.3, 1.0)))
        for example in examples
        for mention in _mentions(rng, example, Skill(skill.recall, 0.0, skill.jitter))
        if mention.category_id is not None
    ]


def _mentions(rng: np.random.Generator, example: Example, skill: Skill) -> list[Mention]:
    return [_mention(rng, item, skill) for item in example.instances if rng.random() < skill.recall]


def _mention(rng: np.random.Generator, instance: Instance, skill: Skill) -> Mention:
    names = CATEGORIES[instance.category_id - 1].names
    name = str(rng.choice(names)) if rng.random() < skill.evenness else names[0]
    x, y = rng.normal(0, skill.jitter, 2) if skill.jitter else (0.0, 0.0)
    box = instance.box
    return Mention(name, instance.category_id, Box(box.x + x, box.y + y, box.w, box.h))


def _detections(
    step: int, temperature: float, examples: Sequence[Example], detections: Sequence[Detection]
) -> tuple[pd.DataFrame, float | None]:
    """detections.parquet, and the official AP."""
    matches = ap.match(examples, Detections.of(detections), CATEGORIES)
    chosen = [detections[index] for index in matches.detection]
    frame = pd.DataFrame(
        {
            "step": step,
            "temperature": temperature,
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


def _info(suite: Suite, cell: Cell) -> CellInfo:
    return CellInfo(
        benchmark={"name": "fake"},
        model={"name": cell.model.name, "label": cell.model.label},
        objective=None if cell.objective is None else cell.objective.model_dump(mode="json"),
        seed=cell.seed,
        train=None if cell.objective is None else suite.described(cell.model, cell.objective),
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
        categories=tuple(
            CategoryInfo(id=c.id, names=c.names, frequency=c.frequency, train_images=1000 // c.id**2)
            for c in CATEGORIES
        ),
        code=CODE,
        packages={"python": "3.11.9"},
        device={"type": "cpu", "name": "x86_64", "threads": 2, "precision": "float32"},
        **fields,
    )
