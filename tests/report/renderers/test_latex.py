"""The LaTeX document: what is escaped, and that pdflatex takes it as it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.report.grids.grid import Grid, GridCell
from harness.report.renderers import latex
from harness.report.renderers.text import category_grids, grids, load
from harness.report.results import Results
from tests.support import fake_cells

HARD = r"""sparkler_(fireworks) <script> 100% A&B #1 {x} ~ ^ \ $ " ' ` ?` !` | -- @ [b] / ± – ≥ ≤ — − × ÷ → …"""  # noqa: RUF001
LETTERS = "".join(map(chr, (*range(0x20, 0x7F), *range(0xC0, 0x100), 0x7, 0x4E2D, 0x1F600)))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    suite = fake_cells.suite(
        models=["toy", {"name": "toy", "label": "<script>alert(1)_{&%#}"}],
        hypotheses=[
            {"id": "H_1", "claim": HARD, "metric": "name_diversity", "a": "sed", "b": "ce"},
            {"id": "H_2", "claim": f"{LETTERS} {'x' * 200}", "metric": "AP", "a": "sed", "b": "ce"},
        ],
    )
    return load(fake_cells.write_run(tmp_path_factory.mktemp("run"), suite, images=12))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_\allowbreak{}b"),
        ("50% & #1", r"50\% \& \#1"),
        (r"\x{y}", r"\textbackslash{}x\{y\}"),
        ("<$^~>", r"$<$\$\textasciicircum{}\textasciitilde{}$>$"),
        ("--k", r"-{}-{}k"),
        ("1 ±2 ≥ 3", r"1 $\pm$2 $\geq$ 3"),
        ("é中\x07", "é[U+4E2D][U+0007]"),
        ("two\n lines", "two lines"),
        ("x" * 25, r"x\allowbreak{}" * 24 + "x"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    assert latex.escape(text) == expected


def test_the_best_is_bold_and_headings_stand_on_every_page() -> None:
    grid = Grid(
        "T", ("row", "name diversity/r"), ((GridCell("a"), GridCell("0.500", 0.5, best=True)),), words=1, note="N"
    )
    assert latex._table(grid) == (
        r"\begin{longtable}{@{}lr@{}}" "\n"
        r"\caption{T. N}\\" "\n"
        r"\toprule" "\n"
        r"row & \begin{tabular}[b]{@{}r@{}}name\\diversity/\allowbreak{}r\end{tabular} \\" "\n"
        r"\midrule" "\n"
        r"\endfirsthead" "\n"
        r"\toprule" "\n"
        r"row & \begin{tabular}[b]{@{}r@{}}name\\diversity/\allowbreak{}r\end{tabular} \\" "\n"
        r"\midrule" "\n"
        r"\endhead" "\n"
        r"\bottomrule" "\n"
        r"\endfoot" "\n"
        r"a & \textbf{0.500} \\" "\n"
        r"\end{longtable}" "\n\n"
    )  # fmt: skip


def test_every_table_is_there(results: Results) -> None:
    text = latex.to_latex(results)
    assert text.count(r"\begin{longtable}") == len(grids(results) + category_grids(results))
    shown = [cell for grid in grids(results) for row in grid.rows for cell in row]
    assert text.count(r"\textbf{") == sum(cell.best for cell in shown)
    assert all(latex.escape(cell.text) in text for cell in shown)


def test_wide_tables_are_split(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latex, "COLUMNS", 4)
    text = latex.to_latex(results)
    assert r"\caption{Detection (greedy answer) (continued)}" in text
    columns = re.findall(r"\\begin\{longtable\}\{(.*)\}", text.replace(latex.PARAGRAPH, "p"))
    assert columns
    assert max(item.count("r") for item in columns) <= 4


def test_it_compiles_as_it_is(results: Results, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    (tmp_path / "tables.tex").write_text(latex.to_latex(results))
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    for _ in range(2):  # longtable needs a second run for its columns
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="latin-1", timeout=120)
        assert made.returncode == 0, made.stdout[-2000:]
    assert "Overfull" not in made.stdout
    assert "mktexpk" not in made.stderr  # no bitmap fonts
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


def test_every_table_is_a_file_to_input(results: Results, tmp_path: Path) -> None:
    paths = latex.write_tables(results, tmp_path / "tables")
    assert {"detection.tex", "diversity.tex", "hypotheses.tex"} <= {path.name for path in paths}
    assert len({path.name for path in paths}) == len(paths) == len(list((tmp_path / "tables").iterdir()))
    detection = (tmp_path / "tables" / "detection.tex").read_text()
    body = detection.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    assert body.count("\n") == len(grids(results)[0].rows)
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    inputs = "".join(f"\\input{{tables/{path.stem}}}\n\n" for path in paths)
    packages = "\\documentclass{article}\n\\usepackage{array,booktabs}\n"
    document = f"{packages}\\begin{{document}}\\tiny\n{inputs}\\end{{document}}"
    (tmp_path / "paper.tex").write_text(document)
    made = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        encoding="latin-1",
        timeout=120,
    )
    assert made.returncode == 0, made.stdout[-2000:]
