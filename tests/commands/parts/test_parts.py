"""A new part of each kind: what is written, what its checks say first, and the pages that walk through one."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import conformance
from harness.commands.parts import check, new
from harness.conformance import Outcome
from harness.conformance.parts import measures, objectives, rewards
from harness.errors import ConfigError
from harness.metrics.image_measures import IMAGE_MEASURES
from harness.metrics.samples.reward import REWARDS
from harness.objectives import OBJECTIVES
from tests.support.packages import install

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["objective", "reward", "benchmark", "stage", "family", "measure", "corrector"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A kind whose skeleton `fresh_KIND` is installed."""
    chosen: str = request.param
    package = tmp_path / "package"
    new.write(chosen, f"fresh_{chosen}", package)
    install(package, tmp_path / "site")
    for folder in (package, tmp_path / "site"):
        monkeypatch.syspath_prepend(str(folder))
    yield chosen
    sys.modules.pop(f"fresh_{chosen}", None)


def outcomes_of(kind: str) -> list[Outcome]:
    made: list[Outcome] = getattr(conformance, f"check_{kind}")(f"fresh_{kind}")
    return made


SAYS = {
    "objective": "loss: return PerToken({term: what each position contributes [N]}, {term: its weight})",
    "reward": "worth: return [I, K] numbers from 0 (worthless) to 1 (complete and right)",
    "stage": "make: return a harness.training.stage.Stage",
    "family": "toy: return a configuration of the model's class of transformers, of a size for tests",
    "corrector": "__call__: return a Correction for each error that it puts right",
    "measure": "value: return a number for each of the I images, nan where it is undefined",
    "benchmark": "annotations: return the Annotations of a split, with its pictures and categories",
}


def test_a_skeleton_is_found_and_says_what_to_write(kind: str) -> None:
    failed = [outcome for outcome in outcomes_of(kind) if outcome.state == "failed"]
    assert SAYS[kind] in failed[0].message
    assert f"fresh_{kind} 0.1.0, entry point fresh_{kind} = fresh_{kind}:" in failed[0].message
    assert importlib.import_module(f"fresh_{kind}").__doc__.startswith(f"The {kind} fresh_{kind}. Check it with: ")  # type: ignore[union-attr]
    assert check.check(kind, f"fresh_{kind}") == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("objective", "ce"),
        ("reward", "detection"),
        ("benchmark", "shapes"),
        ("adapter", "vlm"),
        ("stage", "grpo"),
        ("family", "idefics"),
        ("measure", "recall"),
        ("corrector", "templates"),
    ],
)
def test_a_name_that_exists_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"new {kind}: there is one called '{name}' already"):
        new.write(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["objective", "reward", "measure"])
def test_a_page_lists_every_check_and_its_part_passes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page writes is what it says: the slow tests follow it word by word, with its suite."""
    page = (ROOT / "docs" / "howto" / f"own-{kind}.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, flags=re.MULTILINE)
    checks = {"objective": objectives.CHECKS, "reward": rewards.CHECKS, "measure": measures.CHECKS}[kind]
    assert rows == [(name, " ".join((each.__doc__ or "").split())) for name, each in checks.items()]  # type: ignore[attr-defined]
    ((title, code),) = re.findall(r'^```python title="(.*)"\n((?:.*\n)*?)```$', page, flags=re.MULTILINE)
    name = Path(title).stem
    new.write(kind, name, tmp_path / "package")
    (tmp_path / "package" / f"{name}.py").write_text(code)
    install(tmp_path / "package", tmp_path / "site")
    for folder in (tmp_path / "package", tmp_path / "site"):
        monkeypatch.syspath_prepend(str(folder))
    assert name in {"objective": OBJECTIVES, "reward": REWARDS, "measure": IMAGE_MEASURES}[kind]  # type: ignore[operator]
    outcomes: list[Outcome] = getattr(conformance, f"check_{kind}")(name)
    assert [outcome for outcome in outcomes if outcome.state != "passed"] == []
