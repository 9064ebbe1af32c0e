"""Measures how long a user waits for `detmodes evaluate`: the whole command, start-up and printing included, beside a
script that hands the same files to hotcoco and does nothing else (no validation, no rules, no tables)."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.metrics.detection.rules import Protocol

AT_THE_END = """
import atexit, sys
from pathlib import Path

def tell_peak(path):
    from harness.system.host import read_peak_memory
    Path(path).write_text(str(read_peak_memory()))

atexit.register(tell_peak, sys.argv[1])
"""

HOTCOCO_ALONE = f"""{AT_THE_END}
import json
import hotcoco

truth = hotcoco.COCO(sys.argv[2])
evaluation = hotcoco.LVISeval(truth, hotcoco.LVISResults(truth, sys.argv[3]), "bbox")
evaluation.run()
Path(sys.argv[4]).write_text(json.dumps({{"metrics": dict(AP=evaluation.get_results()["AP"])}}))
"""

DETMODES = f"""{AT_THE_END}
_, _, truth, rows, output, protocol = sys.argv
files = ("--annotations", truth, "--detections", rows, "--output", output)
sys.argv = ["detmodes", "evaluate", "--no-diagnostics", "--protocol", protocol, *files]
from detmodes import main

main()
"""

TOOLS: Mapping[str, str] = {"hotcoco alone": HOTCOCO_ALONE, "detmodes": DETMODES}
"""Scripts by tool. A script gets five paths and words: where to write its peak memory, the annotations, the detections,
where to write {"metrics": {"AP": ...}}, the protocol."""


Quantity = Literal["seconds", "cpu_seconds", "peak_mib"]


@dataclass(frozen=True, slots=True)
class EvaluatedFiles:
    """What a tool is given."""

    annotations: Path
    detections: Path
    protocol: Protocol = "lvis"


@dataclass(frozen=True, slots=True)
class CommandCost:
    """Cost of a whole command: seconds on the wall and of all its processes on processors, peak memory of its first
    process in MiB, and the AP that it computed."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    ap: float


def measure_turns(
    tools: Mapping[str, str], files: EvaluatedFiles, turns: int, note: Callable[[str], None]
) -> dict[str, list[CommandCost]]:
    """Runs every tool `turns` times on the same files, one after another, after one run that is not counted."""
    costs: dict[str, list[CommandCost]] = {name: [] for name in tools}
    for turn in range(turns + 1):
        for name, script in tools.items():
            kind = files.detections.suffix.removeprefix(".")
            note(f"{name}, whole command, {files.protocol} from {kind}, turn {turn} of {turns}")
            cost = run_once(script, files)
            if turn:
                costs[name].append(cost)
    return costs


def run_once(script: str, files: EvaluatedFiles) -> CommandCost:
    """Starts Python for one command. RuntimeError with the end of its output if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        peak, output = Path(folder) / "peak", Path(folder) / "metrics.json"
        arguments = (str(peak), str(files.annotations), str(files.detections), str(output), files.protocol)
        start, busy = time.perf_counter(), _processor_seconds()
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        seconds, cpu_seconds = time.perf_counter() - start, _processor_seconds() - busy
        if done.returncode:
            raise RuntimeError(f"a command failed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        ap = json.loads(output.read_text())["metrics"]["AP"]
        return CommandCost(seconds, cpu_seconds, float(peak.read_text()), ap)


def _processor_seconds() -> float:
    """Returns the processor seconds of this process's children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def median_of(costs: Sequence[CommandCost], quantity: Quantity) -> float:
    """Returns the median over turns."""
    amounts: list[float] = [getattr(cost, quantity) for cost in costs]
    return statistics.median(amounts)


def compare(costs: Sequence[CommandCost], others: Sequence[CommandCost], quantity: Quantity = "seconds") -> float:
    """Returns the first tool's cost over the other's: the median over turns of the ratio within a turn."""
    pairs = zip(costs, others, strict=True)
    ratios: list[float] = [getattr(one, quantity) / getattr(other, quantity) for one, other in pairs]
    return statistics.median(ratios)
