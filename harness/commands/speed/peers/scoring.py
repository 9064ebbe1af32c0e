"""Measures `detmodes evaluate` beside the packages that compute the same AP from the same files, each as a command of
its own: start of Python, import, reading, scoring.

The others only compute: `detmodes evaluate` also refuses what is wrong in a file, and prints a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.commands.speed.evaluation import DetectionSetSize, generate, note
from harness.commands.speed.whole_commands import (
    AT_THE_END,
    DETMODES,
    HOTCOCO_ALONE,
    CommandCost,
    EvaluatedFiles,
    Quantity,
    compare,
    measure_turns,
    median_of,
)
from harness.metrics.detection.rules import Protocol

OURS = "detmodes"
CATEGORIES: dict[Protocol, int] = {"lvis": 1203, "coco": 80}
QUANTITIES: tuple[Quantity, ...] = ("seconds", "cpu_seconds", "peak_mib")
TOLERANCE = 1e-9
"""Largest difference between figures that should be the same but for rounding."""

_WRITE = """
import json
def write(ap):
    Path(sys.argv[4]).write_text(json.dumps({"metrics": {"AP": float(ap)}}))
"""
HOTCOCO_COCO = f"""{AT_THE_END}{_WRITE}
import hotcoco

truth = hotcoco.COCO(sys.argv[2])
evaluation = hotcoco.COCOeval(truth, truth.load_res(sys.argv[3]), "bbox")
evaluation.run()
write(evaluation.get_results()["AP"])
"""
PYCOCOTOOLS = f"""{AT_THE_END}{_WRITE}
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

truth = COCO(sys.argv[2])
evaluation = COCOeval(truth, truth.loadRes(sys.argv[3]), "bbox")
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()
write(evaluation.stats[0])
"""
LVIS = f"""{AT_THE_END}{_WRITE}
import numpy

numpy.float = float  # which it uses, and NumPy has removed
import lvis

truth = lvis.LVIS(sys.argv[2])
evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, sys.argv[3]), "bbox")
evaluation.run()
write(evaluation.get_results()["AP"])
"""
_FASTER = f"""{AT_THE_END}{_WRITE}
from faster_coco_eval import COCO, COCOeval_faster

truth = COCO(sys.argv[2])
evaluation = COCOeval_faster(truth, truth.loadRes(sys.argv[3]), "bbox", %s)
evaluation.params.maxDets = %s
evaluation.run()
write(evaluation.stats_as_dict["AP_all"])
"""
FASTER_LVIS = _FASTER % ("lvis_style=True", [300])
FASTER_COCO = _FASTER % ("lvis_style=False", [1, 10, 100])

TOOLS: dict[Protocol, dict[str, str]] = {
    "lvis": {OURS: DETMODES, "hotcoco": HOTCOCO_ALONE, "faster-coco-eval": FASTER_LVIS, "lvis": LVIS},
    "coco": {OURS: DETMODES, "hotcoco": HOTCOCO_COCO, "faster-coco-eval": FASTER_COCO, "pycocotools": PYCOCOTOOLS},
}
"""Scripts by protocol and package, ours first; what they are given is said at `whole_commands.TOOLS`."""
OPTIONAL = {"faster-coco-eval": "faster_coco_eval"}
"""Packages that detmodes does without, and the names that they are imported by."""


@dataclass(frozen=True, slots=True)
class PeerTiming:
    """One tool on one set. ratios: its costs over ours; difference: its AP minus ours."""

    protocol: str
    tool: str
    set: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    ap: float
    ratios: Mapping[Quantity, float]
    difference: float


def installed(tools: Mapping[str, str]) -> dict[str, str]:
    """Returns the tools whose packages are installed here."""
    return {tool: script for tool, script in tools.items() if tool not in OPTIONAL or find_spec(OPTIONAL[tool])}


def measure(folder: Path, images: int, detections_per_image: int, turns: int, seed: int) -> Iterator[PeerTiming]:
    """Yields a row for each protocol and each package that is installed. The tools take turns on the same files, which
    are removed afterwards."""
    for protocol, tools in TOOLS.items():
        shape = DetectionSetSize(images, detections_per_image, CATEGORIES[protocol])
        files = generate(folder, shape, "coco" if protocol == "coco" else "lvis", seed, ("json",))
        given = EvaluatedFiles(files["annotations"], files["json"], protocol)
        costs = measure_turns(installed(tools), given, turns, note)
        yield from (_timing(protocol, tool, str(shape), runs, costs[OURS]) for tool, runs in costs.items())
        for path in files.values():
            path.unlink()


def _timing(protocol: Protocol, tool: str, shape: str, runs: list[CommandCost], ours: list[CommandCost]) -> PeerTiming:
    seconds, busy, peak = (median_of(runs, quantity) for quantity in QUANTITIES)
    ratios = {quantity: compare(runs, ours, quantity) for quantity in QUANTITIES}
    return PeerTiming(protocol, tool, shape, seconds, busy, peak, runs[0].ap, ratios, runs[0].ap - ours[0].ap)


def find_differences(rows: list[PeerTiming]) -> list[str]:
    """Lists the tools whose AP is not ours."""
    return [
        f"{row.protocol}: {row.tool} gives an AP of {row.ap}, {row.difference:+g} beside ours"
        for row in rows
        if not abs(row.difference) <= TOLERANCE
    ]
