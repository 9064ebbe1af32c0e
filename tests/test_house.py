"""The house in figures: class names are unique, values have telling names, and functions take no row of values.

What does not keep a rule yet is listed here by name. The lists only get shorter: a test fails for what is new, and for
what has been mended and is still listed. (tests/test_imports.py has the order of folders, and their sizes.)
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.source_tree import SOURCES, TESTS

Function = ast.FunctionDef | ast.AsyncFunctionDef

MOST_ARGUMENTS = 8
OPTIONS_OF_THE_COMMAND_LINE = frozenset({"harness.commands.app"})
"""And every module `verbs`: each argument there is an option that a user may type."""

EMPTY_NAMES = frozenset({"found", "kept", "known", "own", "said", "seen", "together"})
"""They fit every value and say nothing of any: a name says what the value is (`matches`, `rows`, `category_ids`)."""
SAVED_NAMES = {"model_zoo.flamingo.new_embeddings": {"kept"}, "model_zoo.pix2seq_decoder": {"own"}}
"""Attributes that are part of the names of parameters in files of weights: those files stay readable."""

SAME_NAME: dict[str, set[str]] = {}
MANY_ARGUMENTS: dict[str, int] = {}


def classes_of(source: str) -> set[str]:
    """Names of all classes, wherever they stand."""
    return {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}


def shared_names(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Class names that stand in several modules -> those modules."""
    places: dict[str, set[str]] = defaultdict(set)
    for module, source in sources.items():
        for name in classes_of(source):
            places[name].add(module)
    return {name: modules for name, modules in places.items() if len(modules) > 1}


def functions_of(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name, those in classes, functions and branches too."""
    for node in body:
        name = f"{prefix}{node.name}" if isinstance(node, ast.ClassDef | Function) else ""
        if isinstance(node, Function):
            yield name, node
        inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        yield from functions_of(inner, f"{name}." if name else prefix)


def arguments_of(function: Function) -> int:
    """How many a caller may give, but for those that a star collects."""
    arguments = function.args
    given = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    return len(given) - (given[:1] in (["self"], ["cls"])) + len(arguments.kwonlyargs)


def longest(sources: Mapping[str, str]) -> dict[str, int]:
    """Functions with more arguments than anybody remembers."""
    return {
        f"{module}.{name}": arguments_of(function)
        for module, source in sources.items()
        if module not in OPTIONS_OF_THE_COMMAND_LINE and not module.endswith(".verbs")
        for name, function in functions_of(ast.parse(source).body)
        if arguments_of(function) > MOST_ARGUMENTS
    }


def names_given_in(source: str) -> Iterator[str]:
    """Every name that a module gives to a value: variables, arguments, functions, attributes of an object."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, Function | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            yield node.name or ""
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.rpartition(".")[2]


def empty_names(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Modules that give a value one of EMPTY_NAMES -> these names."""
    given = {module: set(names_given_in(source)) & EMPTY_NAMES for module, source in sources.items()}
    return {module: names for module, names in given.items() if names}


def test_names_say_what_a_value_is() -> None:
    """In tests as in the code: a test is read where it fails, by somebody who has not written it."""
    assert empty_names(SOURCES) == SAVED_NAMES
    assert empty_names(TESTS) == {}


def test_a_class_name_stands_in_one_module() -> None:
    """Give the newer one a name by what it means; whatever is mended goes from the list."""
    assert shared_names(SOURCES) == SAME_NAME


def test_functions_have_few_arguments() -> None:
    """A settings object, or two functions; whatever is mended goes from the list."""
    assert longest(SOURCES) == MANY_ARGUMENTS


def test_the_rules_notice_what_they_are_for() -> None:
    eight = ", ".join(f"a{index}" for index in range(8))
    sources = {
        "one": f"class Row:\n    def make(self, {eight}): ...\n    def many(self, {eight}, last): ...\n",
        "two": f"if True:\n    class Row: ...\n    async def outer():\n        def inner(a, /, *rest, {eight}): ...\n",
        "commands.verbs": f"def run({eight}, last): ...\n",
    }
    assert shared_names(sources) == {"Row": {"one", "two"}}
    assert longest(sources) == {"one.Row.many": 9, "two.outer.inner": 9}
    every_way = (
        "known = 1",
        "def said(): ...",
        "def f(*, own): ...",
        "self.kept = 1",
        "for a, (b, seen) in c: ...",
        "with a as found: ...",
        "import a as together",
        "from a import own",
        "try: ...\nexcept E as found: ...",
        "lambda own: 1",
        "[1 for own in a]",
        "(found := 1)",
        "match a:\n case [kept]: ...",
    )
    assert all(empty_names({"a": source}) for source in every_way)
    assert empty_names({"a": "knowns = b.known(own=c)"}) == {}
