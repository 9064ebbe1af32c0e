"""The command: measures scoring, training and sampling, and makes the page of what `--output` wrote.

A package that is not installed is left out, with a line that says what installs it. All that is compared was measured
in one run, in turns.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.commands.speed.evaluation import note
from harness.commands.speed.peers import scoring
from harness.commands.speed.peers.scoring import PeerTiming
from harness.system import timing
from harness.system.extras import install_command
from harness.system.files import check_place, write_text
from harness.system.provenance.versions import package_versions
from harness.system.terminal import tell

PACKAGES = (
    *("detmodes", "hotcoco", "faster-coco-eval", "lvis", "pycocotools", "numpy"),
    *("torch", "transformers", "accelerate"),
)
DETECTIONS, TURNS = 100, 3
"""Detections of an image, and how often each tool scores them."""
STEPS, SAMPLED_IMAGES, TOKENS = 20, 16, 32
"""Size of a run of training, and of what is sampled; both are repeated TURNS times."""
THREADS = 1
"""Of torch, for both sides: on a machine with other work, threads that wait for each other would decide the ratio."""


def command(size: int, seed: int, output: Path | None) -> int:
    """Prints the tables. Returns the exit code: 0, or 1 if a package's AP differs from ours by more than rounding.

    Raises ConfigError, before anything is measured, for an output that has no folder.
    """
    if output is not None:
        check_place(output)
    machine = {**timing.machine(), "packages": package_versions(PACKAGES)}
    with tempfile.TemporaryDirectory(prefix="detmodes-speed-") as folder:
        rows = list(scoring.measure(Path(folder), size, DETECTIONS, TURNS, seed))
    document = {
        "machine": machine,
        "seed": seed,
        "scoring": [asdict(row) for row in rows],
        "model": measure_model(),
        "left_out": find_left_out(),
    }
    print(from_document(document))
    differences = scoring.find_differences(rows)
    for difference in differences:
        tell(difference)
    if output is not None:
        write_text(output, json.dumps(document, indent=1) + "\n")
    return 1 if differences else 0


def measure_model() -> Any:
    """Measures training and sampling in a process of their own, as JSON values; None without torch and transformers."""
    if not find_spec("transformers"):
        return None
    note(f"training and sampling beside transformers, {THREADS} thread")
    function = "harness.commands.speed.peers.training:measure"
    return timing.isolated(function, STEPS, SAMPLED_IMAGES, TOKENS, TURNS, threads=THREADS).value


def find_left_out() -> list[str]:
    """Returns a line for each package that is not installed."""
    packages = {**scoring.OPTIONAL, "training and sampling, by transformers": "transformers"}
    return [
        f"{what}: not installed here, {install_command(name)}" for what, name in packages.items() if not find_spec(name)
    ]


# ---- the page --------------------------------------------------------------------------------------------------------


def from_document(document: Mapping[str, Any]) -> str:
    """Makes the page from what `--output` wrote."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"load {machine['load']}; {versions}",
        "",
        *_scoring_lines([PeerTiming(**row) for row in document["scoring"]]),
    ]
    if document["model"] is not None:
        lines += ["", *_model_lines(document["model"])]
    if document["left_out"]:
        lines += ["", "Left out: " + "; ".join(document["left_out"]) + "."]
    return "\n".join(lines)


def _scoring_lines(rows: list[PeerTiming]) -> list[str]:
    sets = dict.fromkeys(f"{row.protocol}: {row.set}" for row in rows)
    return [
        "Scoring, the whole command from JSON: " + "; ".join(sets),
        "",
        "| protocol | package | seconds | CPU seconds | peak memory, MiB "
        "| time / ours | CPU time / ours | memory / ours | AP | AP - ours |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {row.protocol} | {row.tool} | {row.seconds:.2f} | {row.cpu_seconds:.2f} | {row.peak_mib:,.0f} "
            f"| {row.ratios['seconds']:.2f} | {row.ratios['cpu_seconds']:.2f} | {row.ratios['peak_mib']:.2f} "
            f"| {row.ap:.6f} | {row.difference:.1g} |"
            for row in rows
        ),
    ]


def _model_lines(measured: Mapping[str, Any]) -> list[str]:
    training, sampling = measured["training"], measured["sampling"]
    sequences, samples = training["batch"] * training["steps"], sampling["images"] * sampling["samples"]
    lines = [
        f"A small model (`vlm`, family {measured['family']}, random weights, threads: {measured['threads']}): training "
        f"with cross-entropy, {training['batch']} sequences a step, beside transformers' Trainer with `detmodes.loss`; "
        f"{sampling['samples']} samples of {sampling['tokens']} tokens of each of {sampling['images']} images, beside "
        "its `generate`",
        "",
        "| work | by | steps a second | samples a second | time / ours | agreement |",
        "|---|---|---:|---:|---:|---|",
    ]
    for tool, seconds in training["seconds"].items():
        rates = f"{training['steps'] / seconds:.2f} | {sequences / seconds:.1f}"
        agreement = "" if tool == scoring.OURS else f"losses of a step differ by at most {training['difference']:.1g}"
        lines.append(f"| training | {tool} | {rates} | {training['ratios'][tool]:.2f} | {agreement} |")
    for tool, seconds in sampling["seconds"].items():
        same = f"{sampling['same']} of {sampling['images']} greedy answers are the same"
        agreement = "" if tool == scoring.OURS else same
        lines.append(
            f"| sampling | {tool} | | {samples / seconds:.1f} | {sampling['ratios'][tool]:.2f} | {agreement} |"
        )
    return lines
