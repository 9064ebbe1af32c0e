"""Compares every objective with the control at the same AP: it shows which part of a gain in diversity would also
come from less training alone."""

from __future__ import annotations

from dataclasses import dataclass

from harness.metrics.catalogue import diversity_columns
from harness.report.paths import is_comparable
from harness.report.results import Results, once
from harness.report.rows import ReportRow, at_ap_of, at_last_step, compare_rows


@dataclass(frozen=True, slots=True)
class EqualApRow:
    """The figures of a row minus those of the control at the row's AP, read off the control's path of training."""

    control: str
    row: ReportRow

    @property
    def comparable(self) -> bool:
        """Tells whether the control's path comes near enough to the row's AP."""
        gap = self.row.figures.get("AP")
        return gap is not None and is_comparable(gap.estimate)


@once
def equal_ap_rows(results: Results) -> list[EqualApRow]:
    """Makes one row for each objective and model where the suite has a control: the first row of plain CE, whatever its
    learning rate (`tune` gives each row its own). Empty without a control, where the task has no AP, and of models
    whose learning rate falls: no step on their path is a fair place to stop."""
    control = next(
        (row.label for row in results.suite.objectives if row.name == "ce" and not row.train.keys() - {"lr"}), None
    )
    if control is None or results.suite.task == "caption":
        return []
    names = ["AP", *(name for name in diversity_columns(results.samples) if name != "recall")]
    constant = [model for model in results.suite.models if results.suite.train_of(model).schedule == "constant"]
    rows = []
    for model in (model_of_suite.label for model_of_suite in constant):
        for label in (row.label for row in results.suite.objectives if row.label != control):
            row = compare_rows(
                results, at_last_step(results, model, label), names, minus=at_ap_of(results, model, control, label)
            )
            rows.append(EqualApRow(control, row))
    return rows
