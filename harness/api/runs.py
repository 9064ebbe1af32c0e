"""`detmodes.run` and `detmodes.load`: a suite's cells, computed or read, as tables and verdicts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from harness.report.results import Results
    from harness.report.verdicts import Finding
    from harness.suite.schema import Suite

TableName = Literal["figures", "categories", "images", "detections", "samples", "mentions"]
"""figures and categories are computed from the others, which are those of the cells (docs/reference/record.md)."""


class LoadedRun:
    """The cells of a suite, finished ones and others; tables are read, and figures computed, when they are asked for.

    Attributes:
        suite: as it was run, every setting resolved.
        failed: the error of each cell that failed, by "ROW seed N".
        missing: the cells that nobody has computed yet.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self.suite: Suite = results.suite
        self.failed = {str(key): record.error or "" for key, record in results.failed.items()}
        self.missing = [str(key) for key in results.missing]

    @property
    def verdicts(self) -> list[Finding]:
        """What became of each hypothesis of the suite, for each model: `outcome` is supported, refuted, inconclusive or
        not comparable, empty where cells are missing; `verdict` has the estimate and its Holm-adjusted interval."""
        from harness.report.verdicts import verdicts

        return verdicts(self._results)

    def to_pandas(self, table: TableName = "figures") -> pd.DataFrame:
        """Returns a table of all finished cells.

        Args:
            table: `figures`: a row for each figure of each row of the report, with estimate, low and high (the 95%
                interval) and the number of seeds. `categories`: the same by category. `images`, `detections`,
                `samples`, `mentions`: the tables of the cells, with model, row and seed before their own columns.

        Raises:
            ConfigError: for a table that there is not. DataError: where no cell has it (published runs have no
                samples and no mentions), or a file is not the one that its record describes.
        """
        import pandas as pd

        if table not in get_args(TableName):
            raise ConfigError(unknown("table", table, get_args(TableName)))
        if table == "figures":
            return pd.DataFrame(list(_figure_rows(self._results)))
        if table == "categories":
            return pd.DataFrame(list(_category_rows(self._results)))
        return pd.concat(list(_tables(self._results, table)), ignore_index=True)

    def to_markdown(self) -> str:
        """Returns the report as Markdown: what `detmodes report --format md` prints, but for the tables by category."""
        from harness.report.renderers.text import to_markdown

        return to_markdown(self._results)

    def _repr_markdown_(self) -> str:
        """Shows the report where a notebook shows the value of a cell."""
        return self.to_markdown()


def load(folder: str | os.PathLike[str]) -> LoadedRun:
    """Reads a run's output folder, or a published one, or the run at a URL.

    Raises:
        DataError: where it holds no run, or files are not those that the records describe.
    """
    from harness.report import results
    from harness.run.output import mirror

    return LoadedRun(results.load(mirror.local(os.fspath(folder))))


def run(
    suite: str | os.PathLike[str] | Mapping[str, Any],
    output: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    only: str | None = None,
    quiet: bool = True,
) -> LoadedRun:
    """Runs a suite in this process, as `detmodes run` does, and returns its results. Finished cells are not run again.

    Args:
        suite: a path, the name of a shipped suite, or the content of a suite file as a mapping.
        output: folder; runs/SUITE by default.
        data: folder of a data set on disk.
        device: where to compute.
        only: a pattern of cells to run, e.g. "*-ce-*".
        quiet: whether to show no progress on stderr.

    Raises:
        ConfigError: for what is wrong with the suite. ImportError: where `detmodes[train]` is not installed. A cell
            that fails raises nothing: see `failed` of the result.
    """
    from harness.suite import load as suites
    from harness.system.interrupts import Interrupted

    chosen = suites.parse(suite, "suite") if isinstance(suite, Mapping) else suites.load(os.fspath(suite))
    launch = _launch()
    folder = Path(f"runs/{chosen.suite}" if output is None else output)
    options = launch.RunOptions(
        suite=chosen,
        folder=folder,
        data=None if data is None else Path(data),
        device=device,
        only=only,
        quiet=quiet,
        context={},
    )
    try:
        launch.here(options)
    except Interrupted as stop:  # which ends a program; whoever works at a prompt goes on
        raise KeyboardInterrupt(str(stop)) from None
    return load(folder)


def _launch() -> Any:
    """ImportError, with what to install, where the part that computes is not there."""
    from harness.system.extras import explain_missing

    try:
        from harness.commands.run import launch
    except ModuleNotFoundError as error:
        raise ImportError(explain_missing(error) or str(error)) from error
    return launch


def _figure_rows(results: Results) -> Iterator[dict[str, Any]]:
    from harness.report.grids.grid import NOTHING
    from harness.report.rows import figure_lines

    for row, name in figure_lines(results):
        figure = row.figures.get(name, NOTHING)
        place = {"model": row.model, "row": row.label, "step": row.step, "figure": name}
        interval = {"estimate": figure.estimate, "low": figure.low, "high": figure.high}
        yield {**place, **interval, "seeds": len(row.seeds)}


def _category_rows(results: Results) -> Iterator[dict[str, Any]]:
    from harness.report.rows import category_lines

    for line in category_lines(results):
        for category in results.categories:
            place = {"model": line.model, "row": line.label, "category_id": category.id, "category": category.names[0]}
            images = {"frequency": category.frequency, "images": line.support.get(category.id, 0)}
            for name, figure in line.figures.get(category.id, {}).items():
                interval = {"estimate": figure.estimate, "low": figure.low, "high": figure.high}
                yield {**place, **images, "figure": name, **interval, "seeds": figure.seeds}


def _tables(results: Results, table: str) -> Iterator[pd.DataFrame]:
    """Yields the table of each finished cell; DataError where none has it."""
    with_table = [key for key in results.records if results.store.has_table(results.folders[key].name, table)]
    if not with_table:
        raise DataError(f"no finished cell has the table {table}; published runs have images and detections alone")
    for key in with_table:
        results.store.verify_table(results.folders[key].name, table)
        frame = results.read_table(key, table)
        frame.insert(0, "model", key.model)
        frame.insert(1, "row", key.label)
        frame.insert(2, "seed", key.seed)
        yield frame
