"""The page of the design against the code: its tree is complete, its order of imports is the tested one, its answers
exist."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from tests.test_imports import ORDER

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "explain" / "design.md").read_text()
PATH = re.compile(r"`([\w/]+(?:\.\w+)?)`")


def section(heading: str) -> str:
    """The text under a heading, up to the next one of its level."""
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def cells(heading: str) -> list[tuple[str, str]]:
    """The rows of the two-column table under a heading."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(row[0], row[1]) for row in rows]


def test_the_tree_names_every_folder_of_code_once() -> None:
    named = list(chain.from_iterable(PATH.findall(name) for name, _ in cells("The tree")))
    assert all((ROOT / name).exists() for name in named)
    inside = {f"harness/{path.name}" for path in (ROOT / "harness").iterdir() if path.is_dir() and path.name[0] != "_"}
    modules = {f"harness/{path.name}" for path in (ROOT / "harness").glob("*.py") if path.name[0] != "_"}
    code = {folder for folder in inside if any((ROOT / folder).glob("*.py"))}
    assert sorted(named) == sorted({"detmodes.py", "benchmarks", "model_zoo"} | code | modules)


@pytest.mark.parametrize(("question", "answer"), cells("Where is it?"))
def test_every_answer_is_a_file_of_the_repository(question: str, answer: str) -> None:
    places = PATH.findall(answer)
    assert places, question
    assert [place for place in places if not (ROOT / place).is_file()] == []


def test_the_order_of_imports_is_the_tested_one() -> None:
    (told,) = re.findall(r"(?:^    .*\n)+", section("The tree"), flags=re.MULTILINE)
    shown = [{name.removeprefix("harness.") for name in folders} for folders in ORDER]
    assert [set(group.split()) for group in told.split("<")] == shown
