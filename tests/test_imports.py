"""Who may import whom (folders one way only, modules in no circle), read from the source of every module; how large
folders and files may be; and that modules named by a string exist."""

from __future__ import annotations

import ast
import importlib.util
import re

import pytest

from tests.source_tree import (
    IMPORTS,
    PACKAGES,
    ROOT,
    SOURCES,
    TESTS,
    imports_at_top,
    imports_of,
    package_of,
    reachable_from,
    references,
    resolves,
    within,
)

ORDER: tuple[frozenset[str], ...] = (
    frozenset({"harness.types", "harness.errors"}),
    frozenset({"harness.settings", "harness.extension_checks", "harness.yaml_text"}),
    frozenset({"harness.extensions"}),
    frozenset({"harness.system", "harness.sequence", "harness.metrics", "harness.objectives", "harness.images"}),
    frozenset({"harness.records", "harness.protocols", "harness.benchmark_checks", "benchmarks"}),
    frozenset({"harness.registry", "harness.inference"}),
    frozenset({"harness.suite", "model_zoo"}),
    frozenset({"harness.evaluation", "harness.training", "harness.report"}),
    frozenset({"harness.run", "harness.conformance"}),
    frozenset({"harness.commands"}),
    frozenset({"harness.api"}),
)
"""A module imports from its own folder and from folders of earlier lines only. A new folder gets its place here."""

TOGETHER = frozenset({"harness.commands"})
"""Puts everything together, and so may import benchmarks and models. All others find them by name (harness.registry),
but for what they share: benchmarks and models import themselves."""

MOST_MODULES = 12
MOST_LINES = 350
PURE = (
    *(
        "harness.metrics",
        "harness.objectives",
        "harness.errors",
        "harness.settings",
        "harness.sequence",
        "harness.training.schedule",
    ),
    *(
        "harness.inference.padding",
        "harness.inference.decoding",
        "harness.inference.constraint",
        "harness.training.stages.corrections",
    ),
)
PURE_LIBRARIES = frozenset(
    {"__future__", "collections", "dataclasses", "difflib", "functools", "itertools", "json", "math", "re", "typing"}
    | {"numpy", "scipy", "torch", "harness"}
)
"""All that a pure module may import: no files, no tables, no images, no model library, no evaluator."""


def folder_of(module: str) -> str:
    """harness.metrics.detection.ap -> harness.metrics, benchmarks.lvis -> benchmarks: what ORDER lists."""
    return ".".join(module.split(".")[:2]) if package_of(module) == "harness" else package_of(module)


def line(module: str) -> int:
    places = [index for index, folders in enumerate(ORDER) if folder_of(module) in folders]
    assert len(places) == 1, f"{module}: expected its folder in one line of ORDER, found it in {len(places)}"
    return places[0]


def problems_of(module: str, imported: set[str]) -> list[str]:
    """What these imports of this module break, as text; empty if nothing."""
    problems = []
    for name in sorted(imported):
        if package_of(name) not in PACKAGES or name == "harness" or folder_of(name) == folder_of(module):
            continue  # harness itself is its version
        far = package_of(name) != "harness" and folder_of(module) not in TOGETHER
        problems += [f"{module} imports {name}"] * (far or line(name) >= line(module))
    return problems


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Modules that import each other, directly or through others. A package counts as its __init__."""
    reached = {name: reachable_from(name, imports) for name in imports}
    groups = {frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in imports if a in reached[a]}
    return sorted(map(set, groups), key=sorted)


# ---- the source ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", SOURCES)
def test_folders_are_imported_one_way(module: str) -> None:
    assert problems_of(module, IMPORTS[module]) == []


def test_no_modules_import_each_other() -> None:
    assert circles(IMPORTS) == []


@pytest.mark.parametrize("module", [name for name in SOURCES if within(name, PURE)])
def test_pure_modules_touch_nothing_outside(module: str) -> None:
    assert {package_of(name) for name in IMPORTS[module]} <= PURE_LIBRARIES
    calls = [node.func for node in ast.walk(ast.parse(SOURCES[module])) if isinstance(node, ast.Call)]
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & {"open", "print", "input", "__import__"}


def test_only_the_registry_imports_by_name() -> None:
    dynamic = {name for name in SOURCES if "importlib" in IMPORTS[name] or "__import__" in SOURCES[name]}
    assert dynamic == {"harness.registry"}


def test_the_order_lists_what_there_is() -> None:
    existing = {folder_of(name) for name in SOURCES if name != "harness"}
    assert frozenset().union(*ORDER) == existing
    assert sum(map(len, ORDER)) == len(existing)


def test_folders_are_small() -> None:
    folders = {path.parent for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")}
    sizes = {folder: sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders}
    assert not {str(folder.relative_to(ROOT)): size for folder, size in sizes.items() if size > MOST_MODULES}


def test_files_are_short() -> None:
    lengths = {name: source.count("\n") for name, source in (SOURCES | TESTS).items()}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_every_module_named_by_a_string_exists() -> None:
    """Of "module:name" and of what is patched, run or printed by name; in docstrings and comments too."""
    every = {name: source for name, source in (SOURCES | TESTS).items() if name != "tests.test_imports"}
    broken = {
        (name, reference)
        for name, source in every.items()
        for reference in references(source)
        if not resolves(reference)
    }
    assert broken == {("tests.commands.parts.test_skeleton", "harness.types:Model")}  # a wrong one, to be refused


def test_every_file_named_in_a_text_exists() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    texts = {str(page.relative_to(ROOT)): page.read_text() for page in pages} | SOURCES | TESTS
    written = r"(?<![\w/])(?:\.\./)?((?:harness|benchmarks|model_zoo|tests)/[\w/]+\.\w+)"
    missing = {
        (name, path)
        for name, text in texts.items()
        for path in re.findall(written, text)
        if name != "tests.test_imports" and not (ROOT / path).exists()
    }
    assert sorted(missing) == []


NAMED = sorted({reference for source in SOURCES.values() for reference in references(source) if ":" in reference})


@pytest.mark.parametrize("reference", NAMED)
def test_what_is_named_by_a_string_can_be_imported(reference: str) -> None:
    module, _, attribute = reference.partition(":")
    assert hasattr(importlib.import_module(module), attribute)


def test_modules_by_which_failures_are_explained_exist() -> None:
    from harness.system.failures import SMALLER

    assert all(importlib.util.find_spec(module) is not None for module in SMALLER)


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
    modules = frozenset({"harness.suite", "harness.metrics.ap", "benchmarks.shapes"})
    assert imports_of(source, modules) == {
        *("os.path", "sys", "harness.suite", "harness", "harness.metrics.ap"),
        *("harness.protocols", "harness.runner", "benchmarks.shapes"),
    }


def test_imports_at_the_top_are_told_from_others() -> None:
    source = """
import os
if TYPE_CHECKING:
    import torch
else:
    import sys
try:
    import json
except ImportError:
    import re
class Part:
    import ast
    def late(self):
        import timm
async def later():
    import peft
"""
    assert imports_at_top(source, frozenset()) == {"os", "sys", "json", "re", "ast"}


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("harness.training.loop", "benchmarks.shapes"),
        ("harness.evaluation.evaluate", "model_zoo"),
        ("harness.registry", "benchmarks"),
        ("benchmarks.lvis", "model_zoo.oracle"),
        ("model_zoo.oracle", "benchmarks.shapes"),
        ("benchmarks.lvis", "harness.run.runner"),
        ("model_zoo.oracle", "harness.suite.schema"),  # one line
        ("harness.types", "harness.errors"),
        ("harness.metrics.detection.ap", "harness.objectives.token"),
        ("harness.metrics.detection.ap", "harness.sequence"),
        ("harness.protocols", "harness.run.runner"),
        ("harness.report.results", "harness.commands.app"),
    ],
)
def test_the_wrong_way_is_noticed(module: str, imported: str) -> None:
    assert problems_of(module, {imported}) == [f"{module} imports {imported}"]


def test_commands_put_everything_together() -> None:
    assert problems_of("harness.commands.score.measure", {"benchmarks.coco", "model_zoo", "harness.run.runner"}) == []


def test_a_folder_without_a_place_is_noticed() -> None:
    with pytest.raises(AssertionError, match=r"harness\.brand_new\.house: expected its folder in one line"):
        problems_of("harness.brand_new.house", {"harness.types"})


def test_circles_are_noticed() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set()}) == [{"a", "b", "c"}]


def test_names_of_modules_are_found_and_resolved() -> None:
    source = '"""See harness.types.Card."""\nrun("tests.test_imports:line")  # by harness.gone, not harness/gone.py\n'
    resolved = references(source)
    assert resolved == {"harness.types.Card", "tests.test_imports:line", "harness.gone"}
    assert {name for name in resolved if not resolves(name)} == {"harness.gone"}
    assert not resolves("harness.types:NotThere")
