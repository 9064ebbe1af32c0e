"""The source of every module, code and tests: what it imports, at once or late, and which modules its texts name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "benchmarks", "model_zoo")


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
    return set(imports_in(ast.parse(source), modules))


def imports_in(tree: ast.AST, modules: frozenset[str]) -> Iterator[str]:
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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(node):
            node.body = []
    return set(imports_in(tree, modules))


def is_for_types(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


IMPORTS = {name: imports_of(source, frozenset(SOURCES)) for name, source in SOURCES.items()}
AT_TOP = {name: imports_at_top(source, frozenset(SOURCES)) for name, source in SOURCES.items()}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def within(module: str, names: tuple[str, ...]) -> bool:
    """Whether it is one of these modules, or lies in one of these folders."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def reachable_from(start: str, imports: dict[str, set[str]]) -> set[str]:
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
    nodes = ast.walk(ast.parse(source))
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts = [*strings, *re.findall("#.*", source)]
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
