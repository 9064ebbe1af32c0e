"""Renders results as one self-contained HTML page: it loads nothing, and needs JavaScript only for sorting."""

from __future__ import annotations

import hashlib
import math
import re
from base64 import b64encode
from collections.abc import Iterator
from html import escape

from harness.metrics.catalogue import MEANINGS
from harness.report import figures
from harness.report.grids.grid import Grid, GridCell
from harness.report.grids.tables import HYPOTHESES, category_grids, grids
from harness.report.notes import caption, command
from harness.report.results import Results

LONG = 30
"""Rows from which on a table scrolls within itself below its headings."""
PROSE = 36
"""Characters from which on the words in a column are broken into lines."""

STYLE = """
:root { --ink: #1a1a1a; --ground: #fff; --faint: #555; --rule: #ddd; --hover: #f2f7fa; --code: #f4f4f4; }
:root { --link: #005a8f; }
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --ground: #16181c; --faint: #a8a8a8; --rule: #3a3d44; --hover: #23272e; --code: #23272e; }
  :root { --link: #7cc4f5; }
}
body { margin: 0 auto; max-width: 76rem; padding: 0 1rem 4rem; overflow-wrap: anywhere; }
h1 { margin: 1.5rem 0 .25rem; line-height: 1.2; }
h2 { margin: 3rem 0 1rem; padding-bottom: .25rem; border-bottom: 2px solid var(--link); line-height: 1.2; }
a { color: var(--link); }
.skip { position: absolute; left: -999rem; }
.skip:focus { position: static; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
:focus-visible { outline: 3px solid #d55e00; outline-offset: 2px; }
.scroll { overflow-x: auto; margin: 0 0 2rem; }
.long { max-height: 75vh; overflow-y: auto; }
table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
caption { text-align: left; font-size: 1rem; font-weight: 600; padding: .25rem 0 .5rem; }
caption small { display: block; font-weight: 400; color: var(--faint); }
th, td { padding: .25rem .75rem .25rem .25rem; text-align: left; vertical-align: top; white-space: nowrap; }
.number { text-align: right; padding: .25rem .25rem .25rem .75rem; font-variant-numeric: tabular-nums; }
.prose { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--ground); vertical-align: bottom; }
thead th { box-shadow: inset 0 -2px var(--ink); }
tbody th { background: inherit; font-weight: 400; }
@media (min-width: 50rem) { tbody th { position: sticky; left: 0; } }
@media (max-width: 50rem) { /* what goes on to the right fades out */
  .scroll { mask-image: linear-gradient(to right, #000 calc(100% - 2rem), transparent); }
  table { margin-right: 2rem; }
}
tbody tr { border-bottom: 1px solid var(--rule); background: var(--ground); }
tbody tr:hover { background: var(--hover); }
td small { color: var(--faint); font-size: inherit; }
strong small { color: inherit; }
thead button { all: unset; cursor: pointer; font: inherit; font-weight: 600; }
thead button:focus-visible { outline: 3px solid #d55e00; }
th { --arrow: "\\2195"; }
th[aria-sort=ascending] { --arrow: "\\2191"; }
th[aria-sort=descending] { --arrow: "\\2193"; }
button:after, .number button:before { content: var(--arrow); color: var(--faint); padding: 0 .25rem; }
.number button:after { content: none; }
figure { margin: 0 0 2rem; }
figure img { width: 100%; max-width: 75rem; height: auto; background: #fff; border-radius: .25rem; }
figcaption { color: var(--faint); }
dt { font-weight: 600; font-family: ui-monospace, monospace; margin-top: .75rem; }
dd { margin: 0 0 0 1.5rem; max-width: 60rem; }
pre { padding: 1rem; background: var(--code); white-space: pre-wrap; }
@page { size: landscape; }
@media print {
  :root { font-size: 10px; }
  body { max-width: none; }
  nav, .skip { display: none; }
  button:after, .number button:before { display: none; }
  .scroll, .long { overflow: visible; max-height: none; }
  thead th, tbody th { position: static; }
  th, td { white-space: normal; }
  tr, figure { break-inside: avoid; }
}
"""

# A button in every heading; rows sort by `data-value` where the column has any, else by their text. What is
# undefined stays last, whichever way round.
SCRIPT = """
"use strict";
const value = (row, column) => Number(row.cells[column].dataset.value ?? NaN);
const text = (row, column) => row.cells[column].textContent;
function sort(table, head, column) {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.some(row => !isNaN(value(row, column)));
  rows.sort((a, b) => {
    if (!numeric) return sign * text(a, column).localeCompare(text(b, column), "en", {numeric: true});
    const [x, y] = [value(a, column), value(b, column)];
    return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
  });
  table.tBodies[0].append(...rows);
}
for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head, column));
    head.append(button);
  });
}
"""


def to_html(results: Results) -> str:
    """Renders figures, verdicts, tables (all categories with an image), definitions, and how to make them again."""
    made = grids(results)
    claims = [grid for grid in made if grid.title.startswith(HYPOTHESES)]
    summary = [grid for grid in made if grid not in claims]
    facts = "".join(f"<li>{escape(line)}</li>\n" for line in caption(results))
    sections = {
        "Figures": "".join(_figures(results)),
        "Hypotheses": "".join(map(_table, claims)),
        "Tables": f"<ul>\n{facts}</ul>\n{''.join(map(_table, summary))}",
        "Categories": "".join(map(_table, category_grids(results, everything=True))),
        "Definitions": _definitions(results),
        "Reproduce": f"<pre><code>{escape(command(results))}</code></pre>\n",
    }
    shown = {title: body for title, body in sections.items() if body}
    links = "".join(f'<li><a href="#{title.lower()}">{title}</a></li>' for title in shown)
    body = "".join(
        f'<section aria-labelledby="{title.lower()}">\n<h2 id="{title.lower()}">{title}</h2>\n{text}</section>\n'
        for title, text in shown.items()
    )
    title = escape(results.suite.suite)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy()}">
<link rel="icon" href="data:,">
<title>{title}: detmodes</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header>
<h1>{title}</h1>
<p>AP and output diversity of vision-language models fine-tuned as object detectors, by training objective.</p>
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main id="main">
{body}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _policy() -> str:
    """Returns the content policy: whatever the page contains, the browser loads nothing and runs no script but ours."""
    digest = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _figures(results: Results) -> Iterator[str]:
    for name in figures.available(results):
        data = b64encode(figures.svg(results, name).encode()).decode()
        words = escape(figures.description(results, name))
        yield (
            f'<figure>\n<img src="data:image/svg+xml;base64,{data}" alt="{words}">\n'
            f"<figcaption>{escape(figures.TEXTS[name])}</figcaption>\n</figure>\n"
        )


def _table(grid: Grid) -> str:
    note = f"<small>{escape(grid.note)}</small>" if grid.note else ""
    head = "".join(
        f"<th scope=col{_class(grid, index)}>{escape(heading)}</th>" for index, heading in enumerate(grid.headings)
    )
    rows = "".join(f"<tr>{''.join(_cells(grid, row))}</tr>\n" for row in grid.rows)
    long = " long" if len(grid.rows) > LONG else ""
    # The scrolling region takes the focus, so that arrow keys scroll it.
    return (
        f'<div class="scroll{long}" role="region" tabindex="0" aria-label="{escape(grid.title)}">\n<table>\n'
        f"<caption>{escape(grid.title)}{note}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )


def _cells(grid: Grid, row: tuple[GridCell, ...]) -> Iterator[str]:
    """Renders the cells of a row; the first one is its heading."""
    for index, cell in enumerate(row):
        tag = "th scope=row" if index == 0 else "td"
        value = "" if math.isnan(cell.value) else f' data-value="{cell.value:.9g}"'
        yield f"<{tag}{_class(grid, index)}{value}>{_text(cell)}</{tag[:2]}>"


def _class(grid: Grid, index: int) -> str:
    if index >= grid.words:
        return " class=number"
    return " class=prose" if any(len(row[index].text) > PROSE for row in grid.rows) else ""


def _text(cell: GridCell) -> str:
    """Renders the text of a cell so that the estimate stands out from its interval, and the best from the rest."""
    text = escape(cell.text)
    if not math.isnan(cell.value):
        text = re.sub(" (±.*)", r" <small>\1</small>", text)
    return f"<strong>{text}</strong>" if cell.best else text


def _definitions(results: Results) -> str:
    meanings = MEANINGS | {name: measure.meaning for name, measure in results.measures.items()}
    entries = "".join(f"<dt>{escape(name)}</dt>\n<dd>{escape(text)}</dd>\n" for name, text in meanings.items())
    frequencies = "Figures with /r, /c or /f are over the rare, common or frequent categories alone."
    return f"<p>{frequencies}</p>\n<dl>\n{entries}</dl>\n"
