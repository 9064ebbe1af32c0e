"""Renders grids as one LaTeX document that pdflatex compiles without changes: booktabs rules, tables that break
across pages."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import wrap

from harness.report.grids.grid import Grid, GridCell, split
from harness.report.grids.tables import category_grids, grids
from harness.report.notes import caption, command
from harness.report.results import Results
from harness.system.files import write_text

COLUMNS = 10
"""Number of columns of numbers, beside the words, that fit across A4."""
NUMBER_WIDTH = 13
LINE_WIDTH = 36
"""Characters from which on a column of words is set as paragraphs."""
PARAGRAPH = r">{\raggedright\arraybackslash}p{50mm}"
LONG_WORD = 24
"""Characters from which on a word may be broken anywhere, as it has no natural place to do so."""

# The default fonts (OT1) are outlines in every TeX; those of T1 and textcomp are bitmaps where cm-super is absent.
PREAMBLE = r"""\documentclass[a4paper,10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[landscape,margin=15mm]{geometry}
\usepackage{array,booktabs,longtable}
\setlength{\tabcolsep}{4pt}
\setlength{\LTcapwidth}{\textwidth}
\setlength{\parindent}{0pt}
\begin{document}
\raggedright
"""

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_\allowbreak{}",  # names are long, and have no spaces
    "/": r"/\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "`": r"{}`",  # no ligature with ? or !
    "-": r"-{}",  # no ligature: nobody could type the dash of "--seeds"
    "±": r"$\pm$",
    "–": r"\textendash{}",  # noqa: RUF001 (an en dash)
    "—": r"\textemdash{}",
    "−": r"$-$",  # noqa: RUF001 (a minus sign)
    "×": r"$\times$",  # noqa: RUF001 (a multiplication sign)
    "÷": r"$\div$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\to$",
    "…": r"\ldots{}",
}
ABSENT = "ÐÞðþ"
"""Letters of Latin-1 that the default fonts lack."""


def to_latex(results: Results) -> str:
    """Renders all tables (per category only what is reportable), the caption, and the command that makes them again."""
    shown = [part for grid in grids(results) + category_grids(results) for part in split(grid, COLUMNS)]
    items = "".join(f"\\item {escape(line)}\n" for line in caption(results))
    typed = "".join(f"\\texttt{{{escape(line)}}}\\\\\n" for line in command(results).splitlines())
    return (
        f"{PREAMBLE}\n\\section*{{{escape(results.suite.suite)}}}\n\n"
        f"\\begin{{itemize}}\n{items}\\end{{itemize}}\n\n{typed}\n"
        f"\\footnotesize\n{''.join(map(_table, shown))}"
        "\\end{document}\n"
    )


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Writes each table into a file of its own, a tabular to \\input into a document that loads array and booktabs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for grid in (part for whole in grids(results) + category_grids(results) for part in split(whole, COLUMNS)):
        path = folder / f"{_file_name(grid.title)}.tex"
        if path in paths:  # a wide table in parts
            path = folder / f"{_file_name(grid.title)}-{len(paths)}.tex"
        write_text(path, _tabular(grid))
        paths.append(path)
    return paths


def _file_name(title: str) -> str:
    """Makes a name that TeX takes without quoting: "Diversity (K = 8 samples)" is diversity."""
    return re.sub(r"[^a-z0-9]+", "-", title.partition(" (")[0].lower()).strip("-")


def _tabular(grid: Grid) -> str:
    headings = " & ".join(_heading(heading, index < grid.words) for index, heading in enumerate(grid.headings))
    body = "".join(f"{' & '.join(map(_cell, row))} \\\\\n" for row in grid.rows)
    return (
        f"% {' '.join(grid.title.split())}\n\\begin{{tabular}}{{{_columns(grid)}}}\n"
        f"\\toprule\n{headings} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def escape(text: str) -> str:
    """Escapes a text so that it is printed as it is, on one line. Characters without a glyph in pdflatex are printed
    as their code point: [U+4E2D]."""
    return " ".join(map(_escape_word, text.split()))


def _escape_word(word: str) -> str:
    return ("\\allowbreak{}" if len(word) > LONG_WORD else "").join(map(_escape_character, word))


def _escape_character(character: str) -> str:
    plain = " " <= character <= "~" or ("À" <= character <= "ÿ" and character not in ABSENT)
    return SPECIAL.get(character, character if plain else f"[U+{ord(character):04X}]")


def _table(grid: Grid) -> str:
    """Renders a grid as a longtable, whose headings are repeated on every page."""
    title = f"{grid.title}. {grid.note}" if grid.note else grid.title
    headings = " & ".join(_heading(heading, index < grid.words) for index, heading in enumerate(grid.headings))
    body = "".join(f"{' & '.join(map(_cell, row))} \\\\\n" for row in grid.rows)
    return (
        f"\\begin{{longtable}}{{{_columns(grid)}}}\n"
        f"\\caption{{{escape(title)}}}\\\\\n\\toprule\n{headings} \\\\\n\\midrule\n\\endfirsthead\n"
        f"\\toprule\n{headings} \\\\\n\\midrule\n\\endhead\n"
        f"\\bottomrule\n\\endfoot\n{body}\\end{{longtable}}\n\n"
    )


def _columns(grid: Grid) -> str:
    longest = [max(len(row[index].text) for row in grid.rows) if grid.rows else 0 for index in range(grid.words)]
    words = ("l" if width <= LINE_WIDTH else PARAGRAPH for width in longest)
    return f"@{{}}{''.join(words)}{'r' * (len(grid.headings) - grid.words)}@{{}}"


def _heading(text: str, is_words: bool) -> str:
    """Renders a heading; above numbers it is broken into lines of their width."""
    if is_words:
        return escape(text)
    lines = r"\\".join(map(escape, wrap(text, NUMBER_WIDTH)))
    return rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{lines}\end{{tabular}}"


def _cell(cell: GridCell) -> str:
    text = escape(cell.text)
    return rf"\textbf{{{text}}}" if cell.best else text
