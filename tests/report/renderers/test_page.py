"""The HTML page: what it says, and how it behaves in headless Chromium."""

from __future__ import annotations

import hashlib
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.metrics.catalogue import MEANINGS
from harness.report import figures, notes
from harness.report.renderers import text
from harness.report.renderers.html import STYLE, to_html
from harness.report.results import Results
from tests.support import fake_cells

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

ATTACK = "<script>alert(1)</script>"
LABEL = "<img src=x onerror=alert(1)><script>alert(1)"
"""A label becomes a folder's name and so has no slash: a claim may have one."""
VOID = {"meta", "link", "img", "br"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    claim = {"id": "H1", "claim": ATTACK, "metric": "name_diversity", "a": "sed", "b": "ce"}
    suite = fake_cells.suite(models=["toy", {"name": "toy", "label": LABEL}], hypotheses=[claim])
    return text.load(fake_cells.write_run(tmp_path_factory.mktemp("run"), suite, images=12))


@pytest.fixture(scope="module")
def html(results: Results) -> str:
    return to_html(results)


def grids(results: Results) -> list[text.Grid]:
    return text.grids(results) + text.category_grids(results, everything=True)


class _Outline(HTMLParser):
    """Checks that elements are closed in order; collects headings, addresses and identifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in VOID else [tag]
        self.headings += [tag] if re.fullmatch(r"h\d", tag) else []
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def outline(html: str) -> _Outline:
    made = _Outline()
    made.feed(html)
    assert made.open == []
    return made


# ---- the text ----------------------------------------------------------------------------------------------------


def test_headings_are_in_order_and_links_lead_somewhere(outline: _Outline) -> None:
    assert outline.headings == ["h1", *["h2"] * 6]
    assert len(set(outline.ids)) == len(outline.ids)
    assert {address.removeprefix("#") for address in outline.addresses if address.startswith("#")} <= set(outline.ids)


def test_it_loads_nothing(html: str, outline: _Outline) -> None:
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert not re.search(r"url\(|@import", STYLE)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html


def test_every_cell_with_its_value(html: str, results: Results) -> None:
    tables = re.findall(r"<table>.*?</table>", html, re.DOTALL)
    by_title = {unescape(re.findall(r"<caption>(.*?)<", table)[0]): table for table in tables}
    assert list(by_title) == [
        grid.title for grid in sorted(grids(results), key=lambda grid: not grid.title.startswith("Hypotheses"))
    ]
    for grid in grids(results):
        rows = re.findall(r"<tr>(.*?)</tr>", by_title[grid.title])[1:]
        for row, line in zip(grid.rows, rows, strict=True):
            cells = re.findall(r"<t[hd][^>]*?(?: data-value=\"(.*?)\")?>(.*?)</t[hd]>", line)
            texts = [unescape(re.sub("<.*?>", "", text)) for _, text in cells]
            assert texts == [cell.text for cell in row]
            assert [float(value or "nan") for value, _ in cells] == pytest.approx(
                [cell.value for cell in row], nan_ok=True, rel=1e-8
            )
            assert ["<strong>" in text for _, text in cells] == [cell.best for cell in row]


def test_figures_definitions_and_how_to_reproduce(html: str, results: Results) -> None:
    drawn = [b64decode(data).decode() for data in re.findall(r'src="data:image/svg\+xml;base64,(.*?)"', html)]
    assert len(drawn) == len(figures.available(results)) >= 5
    assert all("<svg" in text for text in drawn)
    assert re.findall("<figcaption>(.*?)</figcaption>", html) == [
        escape(figures.TEXTS[name]) for name in figures.available(results)
    ]
    assert dict(re.findall(r"<dt>(.*?)</dt>\n<dd>(.*?)</dd>", html)) == {
        name: escape(text) for name, text in MEANINGS.items()
    }
    assert f"<pre><code>{escape(notes.command(results))}</code></pre>" in html
    assert all(f"<li>{escape(line)}</li>" in html for line in text.caption(results))
    assert html.index("<figure>") < html.index(f"<li>{escape(text.caption(results)[0])}</li>")  # the result comes first


def test_the_same_results_are_the_same_page(html: str, results: Results) -> None:
    assert to_html(results) == html


def test_what_is_not_there_has_no_section(tmp_path: Path) -> None:
    suite = fake_cells.suite(hypotheses=[])
    everything = [(label, seed) for label in fake_cells.DETECTORS for seed in (0, 1)]
    made = to_html(text.load(fake_cells.write_run(tmp_path, suite, missing=everything)))
    assert re.findall("<h2.*?>(.*?)</h2>", made) == ["Tables", "Definitions", "Reproduce"]


# ---- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def address(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(html)
    return path.as_uri()


@pytest.fixture
def opened(chrome: Chrome, address: str) -> Chrome:
    chrome.get(address)
    return chrome


def find(opened: Any, selector: str) -> list[WebElement]:
    elements: list[WebElement] = opened.find_elements("css selector", selector)
    return elements


def table_of(opened: Chrome, title: str) -> WebElement:
    return next(item for item in find(opened, "table") if find(item, "caption")[0].text.startswith(title))


def column(table: WebElement, place: int) -> list[str]:
    return [item.text for item in find(table, f"tbody tr > :nth-child({place})")]


def test_it_opens_without_a_complaint(opened: Chrome, results: Results) -> None:
    assert opened.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert opened.title == "fake: detmodes"
    widths = [image.get_property("naturalWidth") for image in find(opened, "img")]
    assert len(widths) == len(figures.available(results))
    assert all(isinstance(width, int) and width > 0 for width in widths)
    assert all(table.is_displayed() for table in find(opened, "table"))
    assert len(find(opened, "table")) == len(grids(results))


def test_names_are_text(opened: Chrome) -> None:
    """An alert would make every command raise UnexpectedAlertPresentException."""
    assert f"{LABEL}: ce" in column(table_of(opened, "Detection"), 1)
    assert column(table_of(opened, "Hypotheses"), 2) == [ATTACK, ATTACK]
    assert len(find(opened, "script")) == 1


def test_sorting_by_click(opened: Chrome) -> None:
    table = table_of(opened, "Diversity")
    button = find(table, "thead button")[4]
    assert button.text == "distinct names"
    before = column(table, 5)
    estimates = sorted(before, key=lambda text: float(text.split()[0]))
    button.click()
    assert sorted(before) == sorted(column(table, 5))
    assert [text.split()[0] for text in column(table, 5)] == [text.split()[0] for text in estimates]
    assert find(table, "th[aria-sort]")[0].get_attribute("aria-sort") == "ascending"
    button.click()
    assert [text.split()[0] for text in column(table, 5)] == [text.split()[0] for text in estimates[::-1]]
    assert find(table, "th[aria-sort]")[0].get_attribute("aria-sort") == "descending"
    find(table, "thead button")[0].click()
    assert column(table, 1) == sorted(column(table, 1), key=str.casefold)
    assert len(find(table, "th[aria-sort]")) == 1


def test_what_is_undefined_stays_last(opened: Chrome) -> None:
    """An early stop has no consensus."""
    table = table_of(opened, "Consensus")
    button = find(table, "thead button")[4]
    for _ in range(2):
        button.click()
        shown = column(table, 5)
        assert shown[-2:] == [text.UNDEFINED] * 2
        assert text.UNDEFINED not in shown[:-2]


def test_sorting_by_keyboard(opened: Chrome) -> None:
    from selenium.webdriver import Keys

    table = table_of(opened, "Detection")
    first = find(table, "thead button")[0]
    opened.execute_script("arguments[0].closest('.scroll').focus()", table)
    opened.switch_to.active_element.send_keys(Keys.TAB)
    assert opened.switch_to.active_element == first
    before = column(table, 1)
    orders = []
    for key in (Keys.ENTER, Keys.SPACE):
        opened.switch_to.active_element.send_keys(key)
        orders.append(column(table, 1))
    assert opened.switch_to.active_element == first  # sorting does not lose the place
    assert orders[0] == orders[1][::-1]
    assert sorted(orders[0]) == sorted(before)
    assert orders[0] != before


def test_the_first_stop_skips_the_contents(opened: Chrome) -> None:
    from selenium.webdriver import Keys

    find(opened, "body")[0].send_keys(Keys.TAB)
    link = opened.switch_to.active_element
    assert link.text == "Skip to the results"
    link.send_keys(Keys.ENTER)
    assert opened.current_url.endswith("#main")


def test_a_narrow_screen_scrolls_tables_not_the_page(opened: Chrome) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        script = "return [document.documentElement.scrollWidth, window.innerWidth]"
        assert opened.execute_script(script) == [400, 400]
        wide = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert opened.execute_script(wide) > 0
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_javascript_only_sorting_is_missing(chrome: Chrome, address: str, results: Results) -> None:
    chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chrome.get(address)
        assert find(chrome, "button") == []
        shown = find(chrome, "table")
        assert len(shown) == len(grids(results))
        assert find(shown[1], "thead th")[2].text == "AP"
        assert all(image.get_property("naturalWidth") for image in find(chrome, "img"))
    finally:
        chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
