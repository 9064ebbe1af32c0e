"""Turns results into grids: which tables there are, and what each cell contains. The renderer decides how a grid
looks (harness.report.renderers.text, harness.report.renderers.latex, harness.report.renderers.html); the numbers come
from harness.report.rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from harness.metrics.catalogue import (
    AP_COLUMNS,
    CATEGORY_COLUMNS,
    CLUSTER_COLUMNS,
    CONSENSUS_COLUMNS,
    COST_COLUMNS,
    FAULT_COLUMNS,
    FREQUENCY_COLUMNS,
    MASK_COLUMNS,
    ROLLOUT_COLUMNS,
    TEXT_COLUMNS,
    WAY_COLUMNS,
    diversity_columns,
    gain_names,
    heading,
)
from harness.metrics.samples.aggregate import REPORTABLE
from harness.report.chains import foretold
from harness.report.equal_ap import equal_ap_rows
from harness.report.grids.grid import (
    NOTHING,
    UNDEFINED,
    Grid,
    GridCell,
    figure_cell,
    format_interval,
    named_row,
    number,
    shown_seeds,
)
from harness.report.grids.sweeps import sweep_grids
from harness.report.paths import COMPARABLE
from harness.report.results import Results, once
from harness.report.rows import (
    CategoryLine,
    ReportRow,
    best,
    category_lines,
    differences,
    gains,
    table,
    temperature_lines,
)
from harness.report.verdicts import Finding, verdicts
from harness.suite.cells import BASE, chains

HYPOTHESES = "Hypotheses"
DEPENDS_ON_SAMPLES = (
    "Self-BLEU, Vendi score and cluster coverage grow with K, distinct-1 and distinct-2 fall with it: compare them at "
    "the same K only."
)


@once
def grids(results: Results) -> list[Grid]:
    """Makes all tables with one line per row of the suite: detection, diversity, by frequency, and so on;
    differences; hypotheses. A table of figures that no row has (as with records of older code) is left out."""
    rows, samples = table(results), results.samples
    several = len(results.suite.models) > 1
    changes = differences(results)
    clusters = (*TEXT_COLUMNS, *CLUSTER_COLUMNS)
    note = DEPENDS_ON_SAMPLES if _known(rows, "self_bleu") else ""
    names = tuple(name for name in diversity_columns(samples) if name != "recall")
    of_samples = f"(K = {samples} samples)"
    made = [
        *_detection_grids(results, rows),
        figure_grid(results, f"Diversity {of_samples}", rows, diversity_columns(samples)),
        *_optional(results, f"By frequency {of_samples}", rows, FREQUENCY_COLUMNS),
        figure_grid(results, f"Faults {of_samples}", rows, FAULT_COLUMNS),
        *_optional(results, f"Text and clusters {of_samples}", rows, clusters, note),
        *_optional(results, f"Ways of answering {of_samples}", rows, WAY_COLUMNS),
        *_further_grids(results, rows),
        *_consensus_grids(results, rows),
        *_temperature_grids(results, several),
        *_optional(results, "Cost of training", rows, COST_COLUMNS),
        *_optional(results, "What the mask selects", rows, MASK_COLUMNS),
        *_chain_grids(results, rows),
        *_gain_grids(results),
    ]
    if changes:
        made.append(figure_grid(results, f"Difference to {BASE}, paired", changes, names, signed=names))
    made += _equal_ap_grids(results, several)
    made += sweep_grids(results, rows)
    if results.suite.hypotheses:
        made.append(_verdict_grid(verdicts(results), several))
    return made


@once
def summary_grids(results: Results) -> list[Grid]:
    """Makes what a reader wants first: one table of AP and diversity, and the verdicts."""
    of_samples = ("recall", f"coverage@{results.samples}", "name_diversity", "unique_name_sequences")
    names = of_samples if results.suite.task == "caption" else ("AP", *of_samples)
    title = f"{results.suite.suite}: the greedy answer's AP, and K = {results.samples} samples"
    made = [figure_grid(results, title, table(results), names)]
    if results.suite.hypotheses:
        made.append(_verdict_grid(verdicts(results), len(results.suite.models) > 1))
    return made


@once
def category_grids(results: Results, everything: bool = False) -> list[Grid]:
    """Makes one table per figure of CATEGORY_COLUMNS: a line per category, a column per row of the suite. It has only
    categories that are reportable (with `everything`, all that have an image) and for which some row has the figure."""
    lines = category_lines(results)
    least = 1 if everything else REPORTABLE
    few = "too few to report" if everything else "left out"
    note = f"Categories on fewer than {REPORTABLE} images are {few}; those without this figure are left out."
    made = [_category_grid(results, lines, name, least) for name in CATEGORY_COLUMNS]
    return [replace(grid, note=note) for grid in made if grid.rows]


def figure_grid(
    results: Results,
    title: str,
    rows: Sequence[ReportRow],
    names: Sequence[str],
    signed: Collection[str] = (),
    note: str = "",
) -> Grid:
    """Makes a table with a line per row of the suite and a column per figure. `signed` figures are differences: with
    sign, without a best value."""
    several = len(results.suite.models) > 1
    winners = _winners(results, rows, [name for name in names if name not in signed])
    body = tuple(
        (
            GridCell(named_row(row.title, row.model, several)),
            GridCell(shown_seeds(row), len(row.seeds)),
            *(figure_cell(row.figures.get(name, NOTHING), name in signed, (index, name) in winners) for name in names),
        )
        for index, row in enumerate(rows)
    )
    headings = ("row", "seeds", *(heading(name, results.measures) for name in names))
    return Grid(title, headings, body, note=note)


# ---- the tables --------------------------------------------------------------------------------------------------


def _optional(
    results: Results, title: str, rows: Sequence[ReportRow], names: Sequence[str], note: str = ""
) -> list[Grid]:
    """Makes a table of the given figures that some row has; none if no row has any."""
    defined = [name for name in names if _known(rows, name)]
    return [figure_grid(results, title, rows, defined, note=note)] if defined else []


def _known(rows: Iterable[ReportRow], name: str) -> bool:
    return any(not math.isnan(row.figures.get(name, NOTHING).estimate) for row in rows)


def _detection_grids(results: Results, rows: Sequence[ReportRow]) -> list[Grid]:
    if results.suite.task == "caption":  # no boxes, no detections
        names = ("precision", "recall", "hallucination_rate")
        return [figure_grid(results, f"Objects mentioned (K = {results.samples} samples)", rows, names)]
    return [figure_grid(results, "Detection (greedy answer)", rows, AP_COLUMNS)]


def _consensus_grids(results: Results, rows: Sequence[ReportRow]) -> list[Grid]:
    if not _known(rows, "consensus_AP"):
        return []
    title = f"Consensus of the K = {results.samples} samples beside the greedy answer"
    return [figure_grid(results, title, rows, ("AP", "AP50", *CONSENSUS_COLUMNS), signed=["consensus_gain"])]


def _further_grids(results: Results, rows: Sequence[ReportRow]) -> list[Grid]:
    """Makes the table of other packages' measures, with what each means; none where no row has any."""
    note = " ".join(f"{measure.heading}: {measure.meaning}" for measure in results.measures.values())
    title = f"Measures of other packages (K = {results.samples} samples)"
    return _optional(results, title, rows, tuple(results.measures), note)


def _chain_grids(results: Results, rows: Sequence[ReportRow]) -> list[Grid]:
    """Makes the tables of what the stages after fine-tuning lead to and what they cost; none without a chain."""
    of_samples = ("recall", "name_diversity", f"coverage@{results.samples}")
    names = ("AP", "hallucination_rate", *of_samples, *COST_COLUMNS, *ROLLOUT_COLUMNS)
    return _optional(results, "Stages side by side", rows, names) if chains(results.suite) else []


def _gain_grids(results: Results) -> list[Grid]:
    changes, (correlation, cells) = gains(results), foretold(results)
    if not changes:
        return []
    note = (
        f"Over the {cells} cells, coverage@{results.samples} after fine-tuning and the gain in AP have the correlation "
        f"{number(correlation, signed=True)}."
    )
    names = gain_names(results.samples)
    return [figure_grid(results, "Last stage minus fine-tuning, paired", changes, names, names, note)]


def _temperature_grids(results: Results, several: bool) -> list[Grid]:
    lines = temperature_lines(results)
    names = list(lines[0].figures) if lines else []
    body = tuple(
        (
            GridCell(named_row(line.label, line.model, several)),
            GridCell(f"{line.temperature:g}", line.temperature),
            *(figure_cell(line.figures[name]) for name in names),
        )
        for line in lines
    )
    return [Grid("Temperature", ("row", "temperature", *map(heading, names)), body)] if body else []


def _category_grid(results: Results, lines: Sequence[CategoryLine], name: str, least: int) -> Grid:
    several = len(results.suite.models) > 1
    titles = (named_row(line.title, line.model, several) for line in lines)
    body = []
    for category in results.categories:
        images = max((line.support.get(category.id, 0) for line in lines), default=0)
        cells = [figure_cell(line.figures.get(category.id, {}).get(name, NOTHING)) for line in lines]
        if images >= least and not all(math.isnan(cell.value) for cell in cells):
            words = (
                GridCell(category.names[0]),
                GridCell(category.frequency or UNDEFINED),
                GridCell(f"{images:,}", images),
            )
            body.append((*words, *cells))
    return Grid(f"Per category: {heading(name)}", ("category", "frequency", "images", *titles), tuple(body), words=3)


def _equal_ap_grids(results: Results, several: bool) -> list[Grid]:
    lines = [line for line in equal_ap_rows(results) if line.row.figures]
    if not lines:
        return []
    names = [name for name in lines[0].row.figures if name != "AP"]
    body = tuple(
        (
            GridCell(named_row(line.row.label, line.row.model, several)),
            GridCell(shown_seeds(line.row), len(line.row.seeds)),
            GridCell("yes" if line.comparable else "no"),
            *(figure_cell(line.row.figures[name], signed=True) for name in ("AP", *names)),
        )
        for line in lines
    )
    note = (
        f"{lines[0].control} is read off its path along training, seed by seed, where it has the AP of the row. AP "
        f"gap: what is left of the difference; beyond {COMPARABLE:g} the two are not comparable."
    )
    headings = ("row", "seeds", "comparable", "AP gap", *map(heading, names))
    return [Grid(f"Difference to {lines[0].control} at equal AP, paired", headings, body, words=3, note=note)]


def _verdict_grid(findings: Sequence[Finding], several: bool) -> Grid:
    matched = any(item.gap is not None for item in findings)
    headings = (
        "id",
        "claim",
        "hypothesis",
        "estimate [interval]",
        *(["AP gap"] if matched else []),
        "verdict",
        "seeds",
    )
    note = f"AP gap: AP of a minus AP of b, read at equal AP; beyond {COMPARABLE:g} the two are not comparable."
    body = tuple(_verdict_row(item, several, matched) for item in findings)
    return Grid(f"{HYPOTHESES} (Holm)", headings, body, words=len(headings) - 1, note=note if matched else "")


def _verdict_row(finding: Finding, several: bool, matched: bool) -> tuple[GridCell, ...]:
    stated, verdict = finding.hypothesis, finding.verdict
    sign = ">" if stated.direction == "greater" else "<"
    difference = f"{stated.metric}: {stated.compared} {sign} {stated.margin:g}"
    title = stated.id if finding.model is None else named_row(stated.id, finding.model, several)
    words = (GridCell(title), GridCell(stated.claim), GridCell(difference))
    gap = [GridCell("" if finding.gap is None else format_interval(finding.gap, signed=True))] if matched else []
    if verdict is None:
        missing = f"not tested (missing: {', '.join(finding.missing)})"
        return *words, GridCell(UNDEFINED), *gap, GridCell(missing), GridCell("0", 0)
    seeds = GridCell(str(verdict.seeds), verdict.seeds)
    if math.isnan(verdict.estimate):
        return *words, GridCell(UNDEFINED), *gap, GridCell(f"{finding.outcome} (undefined)"), seeds
    interval = f"[{number(verdict.low, signed=True)}, {number(verdict.high, signed=True)}]"
    estimate = f"{number(verdict.estimate, signed=True)} {interval} at {100 * verdict.level:.3g}%"
    return *words, GridCell(estimate, verdict.estimate), *gap, GridCell(finding.outcome), seeds


# ---- cells and words ---------------------------------------------------------------------------------------------


def _winners(results: Results, rows: Sequence[ReportRow], names: Sequence[str]) -> set[tuple[int, str]]:
    """Returns (index of the row, figure) for the best values among the rows of each model."""
    winners = set()
    for model in results.suite.models:
        positions = [index for index, row in enumerate(rows) if row.model == model.label]
        chosen = best(results, [rows[index] for index in positions], names)
        winners |= {(positions[index], name) for name, index in chosen.items()}
    return winners
