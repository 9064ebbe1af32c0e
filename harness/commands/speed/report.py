"""Runs `detmodes speed report`: measures the cost of a report on large cells on this machine, the first time and the
next.

Every measurement is a fresh process: CPU seconds of reading, computing and rendering, and the peak memory of the
process. The run is generated from a seed, see `harness.commands.speed.synthetic_run`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from harness.commands.speed import synthetic_run
from harness.system import timing

GOALS = {"first": "60 s, 2,000 MiB", "again": "10 s"}
"""Largest cost of a report on 18 cells of 19,809 images, in CPU seconds."""
THREADS = 1
"""Threads of BLAS: the products are many and small, and threads that wait for each other cost more than they save."""


def command(images: int, cells: int, seed: int) -> int:
    """Prints the table. Returns the exit code, 0."""
    with tempfile.TemporaryDirectory(prefix="detmodes-speed-") as folder:
        print(f"generating {cells} cells of {images:,} images", file=sys.stderr, flush=True)
        suite = synthetic_run.suite_of(cells)
        synthetic_run.write_run(Path(folder), suite, images, seed)
        results = {
            name: timing.isolated("harness.commands.speed.report:render", folder, threads=THREADS) for name in GOALS
        }
    lines = ["| report | seconds | CPU seconds | peak memory, MiB | goal |", "|---|---:|---:|---:|---|"]
    for name, result in results.items():
        lines.append(
            f"| {name} | {result.seconds:.1f} | {result.cpu_seconds:.1f} | {result.peak_rss_mib:,.0f} | {GOALS[name]} |"
        )
    print("\n".join(lines))
    return 0


def render(folder: str) -> int:
    """Writes the whole report as Markdown, and returns its length."""
    from harness.report.renderers import text

    return len(text.to_markdown(text.load(Path(folder)), per_category=True))
