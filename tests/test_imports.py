"""Who may import whom (one way only), read from the source of every module, and what a listing may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "benchmarks", "model_zoo")

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"harness", "harness.errors", "harness.types", "harness.interrupts"})
    | frozenset({"harness.screen", "harness.plotting", "harness.definitions", "harness.places"})
    | frozenset({"harness.host", "harness.messages"}),
    frozenset({"harness.metrics", "harness.objectives", "harness.sequence", "harness.images", "harness.files"})
    | frozenset({"harness.faults", "harness.timing"}),
    frozenset({"harness.augmentation"})
    | frozenset({"harness.protocols", "harness.records", "harness.targets", "harness.batches", "harness.decoding"})
    | frozenset({"harness.prompts"})
    | frozenset({"harness.gallery", "harness.locks", "harness.durable", "harness.log", "harness.ranks"})
    | frozenset({"harness.phases", "harness.loading", "harness.engine"}),
    frozenset({"harness.corrections"}),
    frozenset({"harness.registry", "harness.provenance", "harness.scores", "harness.estimates", "harness.skipping"})
    | frozenset({"harness.rollout", "harness.stages", "harness.snapshots", "harness.trackers", "harness.sharding"})
    | frozenset({"harness.tasks"}),
    frozenset({"harness.suite", "harness.skeleton"}),
    frozenset({"harness.suite_files"}),
    frozenset({"harness.step", "harness.teacher", "harness.generate", "harness.results", "harness.reading"})
    | frozenset({"harness.pairs"})
    | frozenset({"harness.optimizer"}),
    frozenset({"harness.feed"}),
    frozenset({"harness.grpo", "harness.preference"}),
    frozenset({"harness.train", "harness.frames", "harness.chains"}),
    frozenset({"harness.evaluate", "harness.rows", "harness.reproduce", "harness.nsft", "harness.sft"}),
    frozenset({"harness.later"})
    | frozenset({"harness.probe", "harness.predict", "harness.tables", "harness.figures", "harness.context"}),
    frozenset({"harness.resume", "harness.remote", "harness.conformance", "harness.listing"}),
    frozenset({"harness.compute", "harness.progress"}),
    frozenset({"harness.runner", "harness.report", "harness.latex"}),
    frozenset(
        {
            "harness.budget",
            "harness.cost",
            "harness.error_table",
            "harness.speed",
            "harness.runner_speed",
            "harness.status",
        }
    ),
    frozenset({"harness.publish", "harness.page", "harness.clean", "harness.jobs", "harness.on_ray"}),
    frozenset({"harness.console", "harness.pair_pictures"}),
    frozenset({"harness.launch", "harness.cli_speed"}),
    frozenset({"harness.cli"}),
    frozenset({"harness.__main__"}),
)
"""A module of harness imports from earlier layers only, and not from its own. `metrics` and `objectives` are
packages that count as one module each. A new module gets its place here."""

DESIGN = (
    ("types", "errors"),
    ("objectives", "metrics", "sequence"),
    ("protocols", "records"),
    ("train", "generate", "evaluate"),
    ("runner", "report"),
    ("cli",),
)
"""The order that LAYERS refines."""

EXTENSIONS_SEE = frozenset().union(*LAYERS[:5])
"""What benchmarks and models may use of harness: nothing that runs, trains or evaluates them."""

PURE = (
    *("harness.metrics", "harness.objectives", "harness.errors"),
    *("harness.sequence", "harness.targets", "harness.prompts", "harness.batches", "harness.decoding"),
    "harness.corrections",
    "harness.augmentation",
)
PURE_LIBRARIES = frozenset(
    {"__future__", "collections", "dataclasses", "difflib", "functools", "itertools", "math", "re", "typing"}
    | {"numpy", "scipy", "torch", "harness"}
)
"""All that a pure module may import: no files, no tables, no images, no model library, no evaluator."""

HEAVY = frozenset(
    {"torch", "transformers", "open_flamingo", "open_clip", "timm", "pandas", "matplotlib", "lvis", "hotcoco"}
)


def sources() -> dict[str, str]:
    """Module name -> source, of everything that is shipped."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {module_name(path.relative_to(ROOT)): path.read_text() for path in paths}


def module_name(path: Path) -> str:
    """harness/metrics/__init__.py -> harness.metrics"""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sources()


def imports_of(source: str, modules: frozenset[str]) -> set[str]:
    """Every module that a source imports, wherever in it: at the top, in a function, for the type checker.

    `from package import module` counts as the module, if there is one of that name among `modules`.
    """
    return set(_imports(ast.parse(source), modules))


def _imports(tree: ast.AST, modules: frozenset[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here: write the whole name"
            assert node.module is not None
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield member if member in modules else node.module


IMPORTS = {name: imports_of(source, frozenset(SOURCES)) for name, source in SOURCES.items()}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def unit(module: str) -> str:
    """harness.metrics.ap -> harness.metrics: what LAYERS lists."""
    return ".".join(module.split(".")[:2])


def layer(module: str) -> int:
    places = [index for index, names in enumerate(LAYERS) if unit(module) in names]
    assert len(places) == 1, f"{module}: expected it in one layer of LAYERS, found it in {len(places)}"
    return places[0]


def problems_of(module: str, imported: set[str]) -> list[str]:
    """What these imports of this module break, as text; empty if nothing."""
    own, found = package_of(module), []
    for name in sorted(imported):
        if package_of(name) not in PACKAGES or (own == "harness" and unit(name) == unit(module)):
            continue
        if own == "harness" and package_of(name) == "harness":
            broken = layer(name) >= layer(module)
        elif package_of(name) == "harness":
            broken = unit(name) not in EXTENSIONS_SEE
        else:
            broken = package_of(name) != own
        found += [f"{module} imports {name}"] * broken
    return found


# ---- the source ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_one_way(module: str) -> None:
    assert problems_of(module, IMPORTS[module]) == []


@pytest.mark.parametrize("module", [name for name in SOURCES if unit(name) in PURE])
def test_pure_modules_touch_nothing_outside(module: str) -> None:
    assert {package_of(name) for name in IMPORTS[module]} <= PURE_LIBRARIES
    calls = [node.func for node in ast.walk(ast.parse(SOURCES[module])) if isinstance(node, ast.Call)]
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & {"open", "print", "input", "__import__"}


def test_only_the_registry_imports_by_name() -> None:
    dynamic = {name for name in SOURCES if "importlib" in IMPORTS[name] or "__import__" in SOURCES[name]}
    assert dynamic == {"harness.registry"}


def test_the_table_lists_what_there_is() -> None:
    existing = {unit(name) for name in SOURCES if package_of(name) == "harness"}
    assert frozenset().union(*LAYERS) == existing
    assert sum(map(len, LAYERS)) == len(existing)


def test_the_table_refines_the_design() -> None:
    places = [[layer(f"harness.{name}") for name in group] for group in DESIGN]
    for lower, upper in pairwise(places):
        assert max(lower) < min(upper)


# ---- the rules themselves --------------------------------------------------------------------------------------


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import os.path as p, sys
from harness import suite, __version__
from harness.metrics import ap
from harness.metrics.ap import match
if TYPE_CHECKING:
    from harness.protocols import Adapter
def late():
    import harness.runner
    class Inner:
        from benchmarks import shapes as s
"""
    known = frozenset({"harness.suite", "harness.metrics.ap", "benchmarks.shapes"})
    assert imports_of(source, known) == {
        *("os.path", "sys", "harness.suite", "harness", "harness.metrics.ap"),
        *("harness.protocols", "harness.runner", "benchmarks.shapes"),
    }


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("harness.train", "benchmarks.shapes"),
        ("harness.evaluate", "model_zoo"),
        ("harness.registry", "benchmarks"),
        ("benchmarks.lvis", "model_zoo.oracle"),
        ("model_zoo.oracle", "benchmarks.shapes"),
        ("benchmarks.lvis", "harness.runner"),
        ("model_zoo.oracle", "harness.suite"),
        ("harness.types", "harness.errors"),  # one layer
        ("harness.metrics.ap", "harness.objectives.token"),
        ("harness.metrics.ap", "harness.sequence"),
        ("harness.protocols", "harness.runner"),
        ("harness.report", "harness.cli"),
    ],
)
def test_the_wrong_way_is_noticed(module: str, imported: str) -> None:
    assert problems_of(module, {imported}) == [f"{module} imports {imported}"]


def test_a_module_without_a_place_is_noticed() -> None:
    with pytest.raises(AssertionError, match=r"harness\.brand_new: expected it in one layer"):
        problems_of("harness.brand_new", {"harness.types"})


# ---- what is loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import harness.cli",
        "from harness import registry; assert registry.names('model') and registry.names('benchmark')",
        "from harness import registry; assert registry.shipped_suites()",
    ],
)
def test_help_and_listings_load_nothing_heavy(code: str) -> None:
    report = f"{code}\nimport sys; print(*sorted(set(sys.modules) & {set(HEAVY)}))"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == []
