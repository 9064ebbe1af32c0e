"""Which modules do without torch, and without anything else that takes long to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.system.extras import PARTS
from tests.source_tree import AT_TOP, ROOT, SOURCES, package_of, reachable_from, within

TORCH_FREE = (
    *(
        "harness.types",
        "harness.errors",
        "harness.settings",
        "harness.extension_checks",
        "harness.extensions",
        "harness.protocols",
        "harness.registry",
        "harness.images",
        "harness.yaml_text",
        "harness.system",
    ),
    *("harness.metrics", "harness.sequence", "harness.records", "harness.suite", "harness.report", "benchmarks"),
    *(
        "harness.objectives.spec",
        "harness.objectives.names",
        "harness.objectives.ready",
        "harness.training.stages.corrections",
        "harness.run.output",
        "harness.run.interval",
        "harness.run.trackers",
    ),
    *("harness.commands.score", "harness.commands.results", "harness.commands.run.option_checks"),
    *("harness.api.given", "harness.api.runs", "harness.api.scoring"),
    *("harness.commands.app", "harness.commands.console", "harness.commands.models.listing"),
    *("harness.commands.parts.verbs", "harness.commands.parts.new"),
    *("harness.commands.models.verbs", "harness.commands.run.verbs", "harness.commands.speed.verbs"),
    *("model_zoo.settings", "model_zoo.flamingo.architectures", "model_zoo.flamingo.released_sizes"),
)
"""Folders and modules that are imported without torch: reading suites and results, scoring files, drawing reports."""

WITH_TORCH = frozenset({"harness.system.ranks", "harness.commands.results.pairs"})
"""Not these of them: they are about processes that compute together, and about what models were trained on."""

TRAINING = frozenset(PARTS) - {"deepspeed", "faster_coco_eval", "ray"}
"""Packages that only `detmodes[train]` (or an extra that is of no use without it) brings."""

HEAVY = frozenset(
    {"torch", "transformers", "open_flamingo", "open_clip", "timm", "pandas", "matplotlib", "lvis", "hotcoco"}
)


def loaded(code: str, watched: frozenset[str]) -> list[str]:
    """Which of these packages are imported after this code has run in a process of its own."""
    report = f"{code}\nimport sys; print(*sorted(set(sys.modules) & {set(watched)}))"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import harness.commands.app",
        "from harness import registry; assert registry.names('model') and registry.names('benchmark')",
        "from harness import registry; assert registry.shipped_suites()",
    ],
)
def test_help_and_listings_load_nothing_heavy(code: str) -> None:
    assert loaded(code, HEAVY) == []


def test_a_suite_is_checked_before_anything_heavy_is_loaded() -> None:
    """Every model's settings, and the benchmark's, which comes with its evaluator."""
    heavy = (HEAVY | TRAINING | {"scipy.optimize"}) - {"hotcoco"}
    assert loaded("from harness.suite import load; assert load.load('zoo')", heavy) == []


FREE = [name for name in SOURCES if within(name, TORCH_FREE) and name not in WITH_TORCH]


def test_what_is_free_of_torch_loads_none() -> None:
    assert len(FREE) > 120
    assert loaded("\n".join(f"import {name}" for name in FREE), TRAINING) == []


@pytest.mark.parametrize("module", FREE)
def test_what_is_free_of_torch_imports_nothing_of_training_at_its_top(module: str) -> None:
    """Nor does anything that it imports there; inside a function is where a module may still need torch."""
    assert {name for name in reachable_from(module, AT_TOP) if package_of(name) in TRAINING} == set()
