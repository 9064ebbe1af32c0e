"""Measures how long a user waits for `detmodes evaluate`: the whole command, start-up and printing included, beside a
script that hands the same files to hotcoco and does nothing else (no validation, no rules, no tables)."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_AT_THE_END = """
import atexit, sys
from pathlib import Path

def tell_peak(path):
    from harness.system.host import read_peak_memory
    Path(path).write_text(str(read_peak_memory()))

atexit.register(tell_peak, sys.argv[1])
"""

HOTCOCO_ALONE = f"""{_AT_THE_END}
import json
import hotcoco

truth = hotcoco.COCO(sys.argv[2])
evaluation = hotcoco.LVISeval(truth, hotcoco.LVISResults(truth, sys.argv[3]), "bbox")
evaluation.run()
Path(sys.argv[4]).write_text(json.dumps({{"metrics": dict(AP=evaluation.get_results()["AP"])}}))
"""

DETMODES = f"""{_AT_THE_END}
_, _, truth, rows, output = sys.argv
files = ("--annotations", truth, "--detections", rows, "--output", output)
sys.argv = ["detmodes", "evaluate", "--no-diagnostics", *files]
from detmodes import main

main()
"""

TOOLS: Mapping[str, str] = {"hotcoco alone": HOTCOCO_ALONE, "detmodes": DETMODES}


@dataclass(frozen=True, slots=True)
class CommandCost:
    """Cost of a whole command: seconds on the wall, peak memory of its process in MiB, and the AP that it computed."""

    seconds: float
    peak_mib: float
    ap: float


def measure_turns(
    files: Mapping[str, Path], kind: str, turns: int, note: Callable[[str], None]
) -> dict[str, list[CommandCost]]:
    """Runs every tool `turns` times on the same files, one after another, after one run that is not counted.

    kind: that of the detections file; hotcoco alone reads JSON only, and is left out for others.
    """
    tools = TOOLS if kind == "json" else {"detmodes": DETMODES}
    costs: dict[str, list[CommandCost]] = {name: [] for name in tools}
    for turn in range(turns + 1):
        for name, script in tools.items():
            note(f"{name}, whole command, from {kind}, turn {turn} of {turns}")
            cost = run_once(script, files["annotations"], files[kind])
            if turn:
                costs[name].append(cost)
    return costs


def run_once(script: str, annotations: Path, detections: Path) -> CommandCost:
    """Starts Python for one command. RuntimeError with the end of its output if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        peak, output = Path(folder) / "peak", Path(folder) / "metrics.json"
        arguments = (str(peak), str(annotations), str(detections), str(output))
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"a command failed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return CommandCost(seconds, float(peak.read_text()), json.loads(output.read_text())["metrics"]["AP"])


def compare(costs: Mapping[str, list[CommandCost]]) -> float | None:
    """Returns the time of detmodes over that of hotcoco alone: the median over turns of the ratio within a turn."""
    if costs.keys() != TOOLS.keys():
        return None
    pairs = zip(costs["detmodes"], costs["hotcoco alone"], strict=True)
    return statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs)
