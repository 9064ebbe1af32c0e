"""What runs that never ran have measured along training: losses, entropies and probes, all of them made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.suite.cells import Cell
from harness.suite.schema import Suite


def curve(rng: np.random.Generator, suite: Suite, cell: Cell) -> tuple[dict[str, Any], ...]:
    steps = range(20, suite.train.steps + 1, 20)
    noise = dict(zip(steps, rng.normal(0, 0.02, len(steps)), strict=True))
    slow = 1.0 if cell.label == "ce" else 2.0
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "loss": 0.4 + np.exp(-step / 80) + noise[step],
            "p_y": 1 - 0.6 * np.exp(-step / (80 * slow)) + noise[step] / 4,
            "entropy": 1.2 * np.exp(-step / (100 * slow)) + abs(noise[step]),
            "seconds": 0.1 * step * (1.0 if cell.label == "ce" else 1.02),
        }
        for step in steps
    ]
    for row in rows:
        if cell.label != "ce":
            row["selected"] = 0.3 * np.exp(-row["step"] / 200)
    if cell.objective is not None and cell.objective.then is not None:  # the entropy of seed 1 collapses
        for step, share in ((5, 1.0), (10, 0.05 if cell.seed == 1 else 0.11), (15, 0.3)):
            now = suite.train.steps + step
            further = {"reward": 0.5, "filtered": step / 20} if cell.objective.then.name == "grpo" else {}
            rows.append({"step": now, "loss": 0.0, "entropy": 0.8 * share, "seconds": 0.1 * now, **further})
    return tuple(rows)


def probe(suite: Suite, cell: Cell) -> tuple[dict[str, Any], ...]:
    slow = 1.0 if cell.label == "ce" else 2.0
    decay = {step: float(np.exp(-step / (100 * slow))) for step in suite.train.probes}
    return tuple(
        {
            "step": step,
            "entropy": 1.2 * left,
            "p_y": 1 - 0.6 * left,
            "name_entropy": 1.5 * left,
            "name_p_y": 1 - 0.7 * left,
            "name_diversity": 0.9 * left + 0.01 * cell.seed,
            "recall": 0.9 - 0.4 * left,
        }
        for step, left in decay.items()
    )
