"""A new adapter, from an empty folder: what is written, how it becomes known, and the page that walks through it."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from harness import conformance, registry
from harness.commands.parts import new
from harness.conformance import CHECKS
from harness.errors import ConfigError, DataError
from tests.support.packages import install

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "howto" / "own-model.md"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A skeleton, imported."""
    new.write("adapter", "brand_new", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("brand_new")
    del sys.modules["brand_new"]


def messages(module: ModuleType) -> dict[str, str]:
    outcomes = conformance.check(module.BrandNew)
    return {outcome.check: outcome.message for outcome in outcomes if outcome.state == "failed"}


def test_a_skeleton_says_what_to_write_step_by_step(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = messages(module)
    assert list(reported) == ["protocol"]
    assert reported["protocol"].startswith(
        "build: return the torch.nn.Module, with this many entries in its vocabulary ("
    )

    monkeypatch.setattr(module, "build", lambda vocabulary: nn.Linear(2, vocabulary))
    monkeypatch.setattr(registry, "lvis_categories", lambda: ())
    reported = messages(module)
    assert reported.pop("card").startswith("CARDS: expected parameters within 10% of ")
    assert not reported.keys() & {"protocol", "settings", "describe", "mask", "parsing", "bad_weights", "offline"}
    assert reported["pixels"].startswith("pixels: return float32 images [B, 3, H, W] on the CPU")
    assert reported["generate"].startswith("generate: return for each example one Sample for each temperature")

    monkeypatch.setattr(
        module.BrandNew, "pixels", lambda self, examples: sys.modules["torch"].zeros(len(examples), 3, 2, 2)
    )
    assert messages(module)["logits"].startswith("logits: return logits [B, L, V] for tokens [B, L]")


def test_nothing_is_replaced(tmp_path: Path) -> None:
    written = new.write("adapter", "mine", tmp_path / "new")
    assert [path.name for path in written] == ["mine.py", "test_mine.py", "pyproject.toml"]
    written[0].write_text("work of weeks")
    written[1].unlink()
    with pytest.raises(ConfigError) as caught:
        new.write("adapter", "mine", tmp_path / "new")
    assert [problem.split(":")[0] for problem in caught.value.problems] == [str(written[0]), str(written[2])]
    assert written[0].read_text() == "work of weeks"
    assert not written[1].exists()


@pytest.mark.parametrize("name", ["my-model", "2fast", "", "../up", "class", "_", "_1", "a b"])
def test_a_name_must_be_one_that_python_can_import(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a Python identifier such as my_adapter, got"):
        new.write("adapter", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_must_not_be_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is one called 'open_flamingo' already"):
        new.write("adapter", "open_flamingo", tmp_path)


# ---- how an installed package becomes known ----------------------------------------------------------------------


def detmodes(*arguments: str, path: tuple[Path, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))), "COLUMNS": "250"}
    command = [sys.executable, "-P", "-m", "detmodes", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_an_installed_package_is_known_and_listing_imports_none_of_it(tmp_path: Path) -> None:
    package = tmp_path / "theirs"
    new.write("adapter", "theirs", package)
    install(package, tmp_path / "site")
    module = package / "theirs.py"
    module.write_text("raise SystemExit('imported')\n" + module.read_text())
    done = detmodes("list", "models", path=(tmp_path / "site", package), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = [line for line in done.stdout.splitlines() if "theirs" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("theirs", "", "1.0 M", "65 bins, y x y x"),
        *("say which: of the code, and of the weights", "say where they come from"),
    ]
    (row,) = [line for line in done.stdout.splitlines() if "open_flamingo " in line]
    assert "2.1 M" in row


def test_a_package_that_is_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs_more.py").write_text("import no_such_library\n")
    monkeypatch.setattr(registry, "names", lambda kind: {"lacking": "needs_more:Model", "wrong": "harness.types:Model"})
    with pytest.raises(ConfigError, match=r"model lacking: it needs no_such_library, which is not installed here"):
        registry.find("model", "lacking")
    with pytest.raises(ConfigError, match=r"model wrong: expected the class harness\.types:Model, got: "):
        registry.find("model", "wrong")


@pytest.mark.parametrize(
    ("cards", "complaint"),
    [
        ("[{'settings': {}}]", "missing 4 required"),
        ("[1]", "must be a mapping"),
        ("make_cards()", "malformed node"),
        ("[{'settings': {}, 'parameters': 1, 'coordinates': '', 'licence': '', 'weights': '', 'x': 1}]", "'x'"),
    ],
)
def test_cards_are_literals(cards: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "carded.py").write_text(f"import no_such_library\nCARDS = {cards}\n")
    importlib.invalidate_caches()
    with pytest.raises(DataError, match=r"carded\.py: CARDS: expected a list of literals") as caught:
        registry.cards("carded:Model")
    assert complaint in str(caught.value)


# ---- the page ----------------------------------------------------------------------------------------------------


def test_the_page_has_the_adapter_that_is_tested() -> None:
    (code,) = re.findall(r"^```python .*\n((?:.*\n)*?)```$", PAGE.read_text(), flags=re.MULTILINE)
    assert code == (ROOT / "tests" / "support" / "gru_adapter.py").read_text()


def test_the_page_lists_every_check() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text().partition("## 3.")[2], flags=re.MULTILINE)
    assert rows == [(name, " ".join((check.__doc__ or "").split())) for name, check in CHECKS.items()]
