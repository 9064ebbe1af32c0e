"""What the documentation makes from code and records.

    python docs/_site/pages.py      writes the pages of docs/reference, the overview of docs/results, and the tables
                                    of results/speed from the files beside them
    mkdocs build                    calls the events below (mkdocs.yml names this file)

Everything else in docs/ is written by hand: so are the words about a published suite in docs/results/NAME.md, under
which the site shows its figures and tables, from results/NAME.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
UNDEFINED = "\u2013"
OVERVIEW = "<!-- made from results/ -->"


REFERENCE = ("command-line", "suite", "measures", "record")
"""Pages of docs/reference that are made from code; a test asks whether they are what it says today."""
LINK = re.compile(r"(!?)\[((?:[^\[\]\\]|\\.|\[[^\]]*\])*)\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")
"""A link or picture: its mark, text, target and fragment."""


def main() -> None:
    """Writes the pages that are made from code into docs/, where readers of the repository find them too."""
    for path, text in from_code().items():
        path.write_text(text)


def from_code() -> dict[Path, str]:
    """Maps each committed page that is made from code or records to its text."""
    from harness.commands.suites.page import suite_page

    made = {"command-line": command_line, "suite": suite_page, "measures": measures, "record": record}
    pages = {ROOT / "docs/reference" / f"{name}.md": made[name]() for name in REFERENCE}
    index = ROOT / "docs/results/index.md"
    words = index.read_text().partition(OVERVIEW)[0]
    timings, claims = RESULTS / "speed/README.md", ROOT / "docs/explain/objectives.md"
    return {
        **pages,
        index: f"{words}{OVERVIEW}\n{overview()}",
        timings: speed_tables(timings.read_text()),
        claims: with_verdicts(claims.read_text()),
    }


def with_verdicts(text: str) -> str:
    """Makes every block from `<!-- verdicts-SUITE -->` to `<!-- /verdicts-SUITE -->` again: the table of the suite's
    hypotheses, from its published README."""

    def block(match: re.Match[str]) -> str:
        published_text = (RESULTS / match[1] / "README.md").read_text()
        _, _, rest = published_text.partition("### Hypotheses (Holm)\n\n")
        return f"<!-- verdicts-{match[1]} -->\n{rest.partition(chr(10) * 2)[0]}\n<!-- /verdicts-{match[1]} -->"

    return re.sub(r"<!-- verdicts-([\w-]+) -->.*?<!-- /verdicts-\1 -->", block, text, flags=re.DOTALL)


def speed_tables(text: str) -> str:
    """Makes every block from `<!-- speed-NAME -->` to `<!-- /speed-NAME -->` again, from results/speed/NAME.json."""
    from harness.commands.speed import TABLES
    from harness.registry import resolve

    def block(match: re.Match[str]) -> str:
        document = json.loads((RESULTS / "speed" / f"{match[1]}.json").read_text())
        return f"<!-- speed-{match[1]} -->\n{resolve(TABLES[match[1]])(document)}\n<!-- /speed-{match[1]} -->"

    return re.sub(r"<!-- speed-(\w+) -->.*?<!-- /speed-\1 -->", block, text, flags=re.DOTALL)


# ---- events of mkdocs ------------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Adds the first page, which is the README, and the figures that pages show."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    for drawing in sorted(RESULTS.glob("*/figures/*.svg")):
        files.append(File.generated(config, figure_name(drawing), abs_src_path=str(drawing)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Adds the tables to a page of results, and turns links that leave docs/ into what the site has."""
    del config, files
    name = page.file.src_uri
    place = ROOT if name == "index.md" else (ROOT / "docs" / name).parent
    folder = RESULTS / Path(name).stem
    if name.startswith("results/") and (folder / "README.md").is_file():
        markdown += tables(folder)
    return LINK.sub(lambda match: _on_site(match, place, Path(name).parent), markdown)


def _on_site(match: re.Match[str], place: Path, page: Path) -> str:
    """Writes a link as the site needs it: pages and figures by their place there, other files by their names alone."""
    mark, text, target, fragment = match.groups(default="")
    path = Path(os.path.normpath(place / target))
    if not path.exists():
        raise FileNotFoundError(f"{page}: a link to {target}, which is not there")
    at = _place_on_site(path)
    if at is None:
        return text if text.strip("`") == path.name else f"{text} (`{path.relative_to(ROOT)}`)"
    return f"{mark}[{text}]({os.path.relpath(at, page)}{fragment})"


def _place_on_site(path: Path) -> str | None:
    """Says where the site has a file or folder of the repository, if it has it."""
    name = path.relative_to(ROOT).as_posix()
    if name == "README.md":
        return "index.md"
    if name.startswith("docs/") and path.is_file():
        return name.removeprefix("docs/")
    if path.parent.name == "figures":
        return figure_name(path)
    if path.parent == RESULTS:
        return f"results/{path.name}.md"
    return None


# ---- from texts of the repository ------------------------------------------------------------------------------------


def tables(folder: Path) -> str:
    """Makes the figures and tables of a folder of results from its README, as a part of its page."""
    text = (folder / "README.md").read_text()
    body = text.split("\n\n", 2)[2].split("### Reproduce", 1)[0]
    body = LINK.sub(lambda match: f"{match[1]}[{match[2]}](../../results/{folder.name}/{match[3]})", body)
    return "\n\n## Figures and tables\n\n" + re.sub(r"<!-- /?[\w-]+ -->\n", "", body)


def figure_name(drawing: Path) -> str:
    """Names a drawing on the site by its suite: results/NAME/figures/x.svg is results/NAME-x.svg."""
    return f"results/{drawing.parts[-3]}-{drawing.name}"


def published() -> list[Path]:
    """Lists the folders of published suites."""
    return sorted(path.parent for path in RESULTS.glob("*/suite.json"))


def overview() -> str:
    """Makes one table of all rows of all published suites: AP at equal budget, diversity at equal AP, verdicts."""
    lines = [
        "| suite | row | seeds | AP | name diversity | name diversity minus CE's, at equal AP | comparable |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for folder in published():
        parts = dict(_tables_of((folder / "README.md").read_text()))
        detection = {row["row"]: row for row in parts.get("Detection (greedy answer)", ())}
        diversity = next((rows for title, rows in parts.items() if title.startswith("Diversity (")), [])
        equal = next((rows for title, rows in parts.items() if "at equal AP" in title), [])
        at_equal_ap = {row["row"]: row for row in equal}
        for row in diversity:
            if row["row"].startswith("oracle-") or row["row"].endswith(" after sft"):
                continue
            name, other = row["row"], at_equal_ap.get(row["row"], {})
            cells = [
                f"[{folder.name}]({folder.name}.md)",
                name,
                row["seeds"],
                detection.get(name, {}).get("AP", UNDEFINED),
                row.get("name diversity", UNDEFINED),
                other.get("name diversity", UNDEFINED),
                other.get("comparable", UNDEFINED),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n\n" + verdicts()


def verdicts() -> str:
    """Makes one table of the verdicts of all published suites."""
    lines = [
        "## Verdicts",
        "",
        "| suite | id | claim | estimate | verdict | seeds |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    for folder in published():
        for title, rows in _tables_of((folder / "README.md").read_text()):
            if title.startswith("Hypotheses"):
                for row in rows:
                    estimate = row[next(name for name in row if name.startswith("estimate"))]
                    cells = [f"[{folder.name}]({folder.name}.md)", row["id"], row["claim"], estimate, row["verdict"]]
                    lines.append(f"| {' | '.join([*cells, row['seeds']])} |")
    return "\n".join(lines) + "\n"


def _tables_of(text: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yields the first table under each heading of the third level: its rows by column."""
    for part in text.split("\n### ")[1:]:
        title, _, body = part.partition("\n")
        lines = re.findall(r"^\|.*$", body, flags=re.MULTILINE)
        if len(lines) > 2:
            names, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
            yield title, [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


# ---- from code -------------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Makes the reference of the command line from the program itself: every verb, argument and option."""
    import typer

    from harness.commands.app import app

    program = typer.main.get_command(app)
    parts = ["# Command line\n", "Made from the program; `detmodes VERB --help` says the same.\n"]
    for name, verb in program.commands.items():  # type: ignore[attr-defined]
        if verb.hidden:
            continue
        verbs = getattr(verb, "commands", None)
        if verbs is None:
            parts.append(_verb(f"detmodes {name}", verb))
        else:
            parts += [f"## detmodes {name}\n", f"{verb.help}\n"]
            parts += [_verb(f"detmodes {name} {below}", each, "###") for below, each in verbs.items()]
    return "\n".join(parts)


def _verb(name: str, verb: Any, level: str = "##") -> str:
    arguments = [parameter for parameter in verb.params if parameter.opts == [parameter.name]]
    options = [parameter for parameter in verb.params if parameter.opts != [parameter.name] and not parameter.hidden]
    usage = " ".join([name, *(_upper(argument) for argument in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"{level} {name}\n", f"{inspect.cleandoc(verb.help or '')}\n", f"```text\n{usage}\n```\n"]
    if verb.params:
        lines += ["| | default | |", "| --- | --- | --- |"]
        lines += [_parameter(parameter) for parameter in [*arguments, *options]]
    return "\n".join(lines) + "\n"


def _upper(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _parameter(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts] if parameter.opts != [parameter.name] else [_upper(parameter)]
    default = (
        "required"
        if parameter.required
        else ""
        if parameter.default in (None, False, (), [])
        else str(parameter.default)
    )
    shown = f"`{default}`" if default and default != "required" and not callable(parameter.default) else default
    words = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"| {', '.join(f'`{name}`' for name in names)} | {'' if callable(parameter.default) else shown} | {words} |"


def measures() -> str:
    """Makes the reference of the measures from the catalogue."""
    from harness.metrics.catalogue import MEASURES
    from harness.metrics.measure import HIGHER, LOWER

    better = {HIGHER: "higher", LOWER: "lower"}
    lines = [
        "# Measures\n",
        "Made from `harness/metrics/catalogue.py`. Names as suites, records and CSV files have them.\n",
    ]
    for group in dict.fromkeys(measure.group for measure in MEASURES):
        lines += [f"## {group[0].upper()}{group[1:]}\n", "| name | better | meaning |", "| --- | --- | --- |"]
        lines += [
            f"| `{measure.name}` | {better.get(measure.direction, 'depends')} | {measure.meaning} |"
            for measure in MEASURES
            if measure.group == group
        ]
        lines.append("")
    return "\n".join(lines)


def record() -> str:
    """Makes the reference of a cell's record from its schema."""
    from harness.records import record as module

    text = inspect.cleandoc(module.__doc__ or "").split("\n\n", 1)
    files = "\n".join(line for line in text[1].splitlines())
    parts = ["# Record\n", f"{text[0].replace(' (DESIGN 6.6)', '')}\n", f"{files}\n"]
    for model in (module.Record, module.CellInfo, module.EvaluationInfo, module.CategoryInfo):
        words = _field_words(inspect.getsource(model))
        parts += [
            f"## {model.__name__}\n",
            f"{inspect.cleandoc(model.__doc__ or '')}\n",
            "| field | type | |",
            "| --- | --- | --- |",
        ]
        for name, field in model.model_fields.items():
            kind = str(field.annotation).replace("typing.", "").replace("|", "\\|")
            kind = re.sub(r"<class '([\w.]+)'>", r"\1", kind).replace("harness.records.record.", "")
            kind = re.sub(r"Annotated\[(\w+), .*\)\], ", r"\1, ", kind)
            parts.append(f"| `{name}` | `{kind}` | {words.get(name, '')} |")
        parts.append("")
    return "\n".join(parts)


def _field_words(source: str) -> dict[str, str]:
    """Takes the string under each field of a class: what it means."""
    pairs = re.findall(r'^    (\w+): [^\n]+\n    """(.*?)"""', source, flags=re.MULTILINE | re.DOTALL)
    return {name: " ".join(words.split()).replace("|", "\\|") for name, words in pairs}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
