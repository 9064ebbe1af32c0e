"""The pages of the documentation: made from code where they say so, linked, and as short as a first page should be."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)")


def generator() -> dict[Path, str]:
    """The pages that docs/_site/pages.py makes."""
    specification = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "_site" / "pages.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    pages: dict[Path, str] = module.from_code()
    return pages


def test_pages_made_from_code_are_what_the_code_says() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in generator().items() if path.read_text() != text]
    assert stale == [], "python docs/_site/pages.py writes them again"


def test_the_first_page_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, fragment in LINK.findall(text):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not fragment or fragment in anchors(there), f"{target}#{fragment}"


@pytest.mark.parametrize(
    ("clicks", "answers"),
    [
        (["docs/howto/evaluate.md"], ["detmodes evaluate --annotations"]),
        (["docs/howto/own-data.md", "docs/reference/models.md"], ["{name: yolo}", "name: sed_sft", "qwen2_5_vl"]),
        (["docs/results/index.md", "docs/explain/statistics.md"], ["at equal AP", "What this cannot tell"]),
    ],
    ids=["how do I evaluate my JSON", "how do I fine-tune my Qwen on my YOLO data", "what came out, can I trust it"],
)
def test_a_question_is_answered_in_two_clicks(clicks: list[str], answers: list[str]) -> None:
    """From the first page to a page that it links to, and if need be to one that this links to."""
    page, read = ROOT / "README.md", ""
    for click in clicks:
        targets = {(page.parent / target).resolve() for target, _ in LINK.findall(page.read_text()) if target}
        page = ROOT / click
        assert page in targets
        read += page.read_text()
    assert [answer for answer in answers if answer not in read] == []
