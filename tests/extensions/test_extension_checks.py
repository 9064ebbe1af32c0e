"""A package from outside may do anything wrong: each mistake is one line with package, entry point and contract."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.errors import ConfigError, DataError
from harness.run import runner
from harness.run.context import open_context
from harness.suite.load import parse
from harness.suite.schema import NamedModel
from tests.support import small
from tests.support.packages import write_package

NUMBERS = count()
JSON = "expected describe() to give a dict of JSON values, "
GOOD = """
from model_zoo.flamingo.toy import OpenFlamingo


class Theirs(OpenFlamingo):
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a module as the model `theirs`; returns how errors call it."""

    def install(source: str, group: str = "adapters") -> str:
        module = f"theirs_{next(NUMBERS)}"  # never imported before
        write_package(tmp_path, module, source, f"detmodes.{group}", f"theirs = {module}:Theirs")
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"({module} 0.7, entry point theirs = {module}:Theirs): "

    return install


def refusal(kind: str, **settings: Any) -> str:
    """What a suite with it is told, in one line."""
    content: dict[str, Any] = {"suite": "s", "benchmark": "shapes", "models": ["open_flamingo"]}
    content |= {"objectives": ["ce"], "seeds": [0]}
    content |= {"benchmark": {"name": "theirs", **settings}} if kind == "benchmark" else {}
    content |= {"models": [{"name": "theirs", **settings}]} if kind == "model" else {}
    with pytest.raises(ConfigError) as caught:
        parse(content, "s.yaml")
    (problem,) = caught.value.problems
    assert "\n" not in problem
    return problem


def test_a_good_one_is_made(package: Any) -> None:
    package(GOOD)
    made: Any = registry.model("theirs", small.benchmark().categories, {"weights": "random"})
    assert type(made).__name__ == "Theirs"


@pytest.mark.parametrize("kind", ["model", "benchmark"])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1 / 0\n", "importing it failed: ZeroDivisionError: division by zero (MODULE.py, line 1)"),
        ("def broken(:\n", "importing it failed: SyntaxError: invalid syntax (MODULE.py, line 1)"),
        ("import no_such_module\n", "it needs no_such_module, which is not installed here"),
        ("raise SystemExit('bye')\n", "importing it failed: SystemExit: bye (MODULE.py, line 1)"),
        ("", "importing it failed: AttributeError: module 'MODULE' has no attribute 'Theirs'"),
        ("Theirs = 3\n", "expected a class as harness.protocols describes CONTRACT; got int"),
        (
            "class Theirs: ...\n",
            "expected a class as harness.protocols describes CONTRACT; it has no static method pro",
        ),
        (
            "class Theirs:\n    @staticmethod\n    def problems(settings):\n        return settings['size']\n",
            "problems(settings) failed: KeyError: 'size' (MODULE.py, line 4)",
        ),
        (
            "class Theirs:\n    @staticmethod\n    def problems(settings):\n        return None\n",
            "expected a class as harness.protocols describes CONTRACT; problems() gave None, not a list of texts",
        ),
    ],
)
def test_a_class_that_is_none(package: Any, kind: str, source: str, expected: str) -> None:
    origin = package(source, {"model": "adapters", "benchmark": "benchmarks"}[kind])
    module = origin.strip("(").split()[0]
    contract = {"model": "an Adapter", "benchmark": "a Benchmark"}[kind]
    wording = expected.replace("MODULE", module).replace("CONTRACT", contract)
    assert refusal(kind).startswith(f"s.yaml: {kind} theirs {origin}{wording}")


def made(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        registry.model("theirs", small.benchmark().categories, settings)
    return str(caught.value)


def test_a_model_that_lacks_methods(package: Any) -> None:
    methods = "    generate = describe = logits = lambda self: None\n    codec = None\n"
    origin = package(
        f"class Theirs:\n    problems = print\n    def __init__(self, categories, settings): ...\n{methods}"
    )
    assert made() == (
        f"model theirs {origin}expected a class as harness.protocols describes an Adapter; "
        "it has no model, pixels, save, load"
    )


def test_a_model_that_is_called_otherwise(package: Any) -> None:
    origin = package("class Theirs:\n    problems = print\n    def __init__(self): ...\n")
    assert f"{origin}making it failed: TypeError: Theirs.__init__() takes 1 positional argument" in made()


def test_a_model_that_cannot_be_made(package: Any) -> None:
    package(
        "class Theirs:\n    problems = print\n    def __init__(self, c, s):\n        raise RuntimeError('no\\nroom')\n"
    )
    assert "making it failed: RuntimeError: no room (theirs_" in made()


@pytest.mark.parametrize("error", [FileNotFoundError, MemoryError])
def test_errors_with_words_of_their_own_keep_them(package: Any, error: type[Exception]) -> None:
    """A missing file is told by its name; lack of memory with what to lower."""
    source = "class Theirs:\n    problems = print\n    def __init__(self, c, s):\n        raise "
    package(f"{source}{error.__name__}\n")
    with pytest.raises(error):
        registry.model("theirs", small.benchmark().categories, {})


DESCRIBED = """
class Theirs:
    problems = print
    codec = generate = None

    def __init__(self, categories, settings): ...

    def describe(self):
        return {}
"""


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("1 / 0", "describe() failed: ZeroDivisionError: division by zero (MODULE.py, line 9)"),
        ("{'weights': print}", JSON + "got: Object of type builtin_function_or_method is not JSON serializable"),
        ("{'lr': float('nan')}", JSON + "got: Out of range float values are not JSON compliant"),
        ("{(1, 2): 3}", JSON + "got: keys must be str, int, float, bool or None, not tuple"),
        ("['theirs']", JSON + "got list"),
        ("None", JSON + "got NoneType"),
    ],
)
def test_a_model_that_does_not_say_what_it_is(
    package: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, returned: str, told: str
) -> None:
    """The description identifies its cells."""
    origin = package(DESCRIBED.replace("return {}", f"return {returned}"))
    made = registry.model("theirs", small.benchmark().categories, {})
    context = open_context(small.mini_suite(), None, "cpu")
    context.suite = context.suite.model_copy(update={"models": (NamedModel(name="theirs", label="theirs"),)})
    monkeypatch.setattr(runner, "build", lambda *_: made)
    with pytest.raises(ConfigError) as caught:
        runner.plan(context, tmp_path)
    module = origin.strip("(").split()[0]
    assert str(caught.value).startswith(f"model theirs {origin}{told.replace('MODULE', module)}")
    assert "\n" not in str(caught.value)


def test_a_benchmark_that_raises(package: Any) -> None:
    origin = package(
        "class Theirs:\n    problems = print\n    def __init__(self, settings, data): ...\n"
        "    evaluate = match = describe = lambda self: {}\n    categories = (None,)\n"
        "    def split(self, name): ...\n",
        "benchmarks",
    )
    with pytest.raises((ConfigError, DataError)) as caught:
        registry.benchmark("theirs", {}, None)
    assert f"benchmark theirs {origin}making it failed: AttributeError: " in str(caught.value)
