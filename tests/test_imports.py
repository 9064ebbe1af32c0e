"""Who may import whom (folders one way only, modules in no circle), read from the source of every module; how large
folders and files may be; which modules do without torch; and that modules named by a string exist."""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

from harness.system.extras import PARTS

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "benchmarks", "model_zoo")

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
TRAINING = frozenset(PARTS) - {"deepspeed", "ray"}
"""Packages that only `detmodes[train]` (or an extra that is of no use without it) brings."""
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

HEAVY = frozenset(
    {"torch", "transformers", "open_flamingo", "open_clip", "timm", "pandas", "matplotlib", "lvis", "hotcoco"}
)


def sources(*packages: str) -> dict[str, str]:
    """Module name -> source, of everything in these packages."""
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return {module_name(path.relative_to(ROOT)): path.read_text() for path in paths}


def module_name(path: Path) -> str:
    """harness/metrics/__init__.py -> harness.metrics"""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sources(*PACKAGES)
TESTS = sources("tests")


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


def imports_at_top(source: str, modules: frozenset[str]) -> set[str]:
    """What is imported as soon as a source is: not in a function, and not for the type checker alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_for_types(node):
            node.body = []
    return set(_imports(tree, modules))


def _is_for_types(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


IMPORTS = {name: imports_of(source, frozenset(SOURCES)) for name, source in SOURCES.items()}


AT_TOP = {name: imports_at_top(source, frozenset(SOURCES)) for name, source in SOURCES.items()}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def folder_of(module: str) -> str:
    """harness.metrics.detection.ap -> harness.metrics, benchmarks.lvis -> benchmarks: what ORDER lists."""
    return ".".join(module.split(".")[:2]) if package_of(module) == "harness" else package_of(module)


def line(module: str) -> int:
    places = [index for index, folders in enumerate(ORDER) if folder_of(module) in folders]
    assert len(places) == 1, f"{module}: expected its folder in one line of ORDER, found it in {len(places)}"
    return places[0]


def within(module: str, names: tuple[str, ...]) -> bool:
    """Whether it is one of these modules, or lies in one of these folders."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


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
    reached = {name: _reached(name, imports) for name in imports}
    groups = {frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in imports if a in reached[a]}
    return sorted(map(set, groups), key=sorted)


def _reached(start: str, imports: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    left = [start]
    while left:
        for name in imports.get(left.pop(), set()) - reached:
            reached.add(name)
            left.append(name)
    return reached


def references(source: str) -> set[str]:
    """Names of modules of ours in the strings and comments of a source, each as far as it is written:
    "harness.registry", "benchmarks.lvis:Lvis", harness.types.Card."""
    written = r"(?<![\w./\[])(?:harness|benchmarks|model_zoo|tests)(?:\.[a-zA-Z_]\w*)+(?::[a-zA-Z_]\w*)?"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    texts = [token.string for token in tokens if token.type in (tokenize.STRING, tokenize.COMMENT)]
    return {name for text in texts for name in re.findall(written, text)}


def resolves(reference: str) -> bool:
    """Whether it is a module, or something in one: "harness.types", "harness.types.Card", "harness.types:Card"."""
    parts = reference.replace(":", ".").split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if module in SOURCES | TESTS:
            return length == len(parts) or parts[length] in names_of(module)
    return False


@cache
def names_of(module: str) -> frozenset[str]:
    """What a module has at its top: definitions, values, imports."""
    names: set[str] = set()
    for node in ast.parse((SOURCES | TESTS)[module]).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            names |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return frozenset(names)


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
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    sizes = {folder: sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders}
    assert {str(folder.relative_to(ROOT)): size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_files_are_short() -> None:
    lengths = {name: source.count("\n") for name, source in SOURCES.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


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


# ---- what is loaded --------------------------------------------------------------------------------------------


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
    assert {name for name in _reached(module, AT_TOP) if package_of(name) in TRAINING} == set()
