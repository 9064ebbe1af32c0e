"""What `detmodes run --dry-run` shows: the cells with their settings, and what they will cost on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from rich.markup import escape
from rich.table import Table

from harness import objectives
from harness.commands.console import describe_duration
from harness.errors import ConfigError
from harness.records.layout import TRIALS
from harness.run import runner, tuning
from harness.run.context import Context
from harness.run.cost.benchmark import measure_device
from harness.run.cost.estimate import Estimator
from harness.run.cost.finished import is_finished
from harness.run.cost.hardware import Hardware, device_named
from harness.run.cost.result import CellEstimate, warnings_of
from harness.suite.cells import Cell, cells, select_cells
from harness.suite.schema import Suite
from harness.system.terminal import screen

GIGA = 1e9


def show_plan(context: Context, folder: Path, only: str | None, on: str | None = None) -> None:
    """Prints the plan. on: a device by name; this machine, measured for a second, if None."""
    runner.require_possible(context)
    chosen = _chosen(context.suite, only)
    hardware = measure_device(context.accelerator.device) if on is None else device_named(on)
    estimator = Estimator(context, hardware)
    if problems := estimator.problems():
        raise ConfigError(*problems)
    costs = estimate_cells(estimator, folder, chosen)
    trials = _estimate_trials(context, folder, hardware)
    console = screen()
    table = Table(title=f"{context.suite.suite}: {len(chosen)} cells into {folder}")
    for heading in ("cell", "objective", "estimated"):
        table.add_column(heading, justify="right" if heading == "estimated" else "left")
    for cell, cost in zip(chosen, costs, strict=True):
        told = "finished" if cost is None else describe_duration(cost.seconds)
        table.add_row(escape(cell.id), escape(_objective(cell)), told)
    console.print(table)
    labelled = {f"{item.model.label}-{item.label}": cost for item, cost in zip(chosen, costs, strict=True)}
    by_row = {label: cost for label, cost in labelled.items() if cost is not None and cost.phases}
    if by_row:
        console.print(_phases_table(by_row))
        console.print(_memory_table(by_row, hardware))
    _show_settings(context)
    for note in dict.fromkeys(note for item in chosen for note in estimator.outline(item.model).notes):
        console.print(f"assumed:   {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"assumed:   {_assumptions(hardware)}", soft_wrap=True, highlight=False, markup=False)
    for warning in warnings_of(list(by_row.items()), hardware):
        console.print(f"warning:   {warning}", soft_wrap=True, highlight=False, markup=False)
    if (tune := context.suite.tune) is not None:
        budget = "" if tune.steps is None else f" of {tune.steps} steps"
        console.print(f"tuning:    {len(trials)} trials{budget} first, {_total(_seconds(trials))}", highlight=False)
    console.print(f"estimated: {_total(_seconds([*costs, *trials]))} on {hardware.name}", highlight=False)


def _chosen(suite: Suite, only: str | None) -> list[Cell]:
    every = list(cells(suite))
    return [every[place] for place in select_cells({i: item.id for i, item in enumerate(every)}, only, "--only")]


def estimate_cells(estimator: Estimator, folder: Path, chosen: Sequence[Cell]) -> list[CellEstimate | None]:
    """What each cell will cost; None for one that the folder has finished."""
    return [
        None
        if is_finished(estimator.context, folder, cell, estimator.outline(cell.model).predictor)
        else estimator.estimate(cell)
        for cell in chosen
    ]


def _estimate_trials(context: Context, folder: Path, hardware: Hardware) -> list[CellEstimate | None]:
    """What each trial of `tune` will cost; empty for a suite without."""
    tune = context.suite.tune
    if tune is None:
        return []
    estimator = Estimator(tuning.on_trials(context, tune), hardware)
    return estimate_cells(estimator, folder / TRIALS, _chosen(estimator.suite, tuning.only_trials(tune)))


def _objective(cell: Cell) -> str:
    if cell.objective is None:
        return "-"
    settings = objectives.ready(cell.objective.name, cell.objective.settings).settings
    shown = " ".join(f"{key}={value}" for key, value in settings.items())
    return f"{cell.objective.name} {shown}".strip()


def _phases_table(rows: Mapping[str, CellEstimate]) -> Table:
    """A line for each phase of a cell of each row."""
    table = Table(title="each cell, by phases")
    for heading in ("row", "phase", "tokens", "TFLOP", "time"):
        table.add_column(heading, justify="left" if heading in ("row", "phase") else "right")
    for label, cost in rows.items():
        for name, phase in cost.phases.items():
            amount = f"{phase.tokens / GIGA:,.1f} GB" if name == "checkpoints" else f"{phase.tokens:,.0f}"
            flops = f"{phase.flops / 1e12:,.3g}" if phase.flops < 1e15 else f"{phase.flops / 1e12:,.0f}"
            table.add_row(escape(label), name, amount, flops, describe_duration(phase.seconds))
        table.add_section()
    return table


def _memory_table(rows: Mapping[str, CellEstimate], hardware: Hardware) -> Table:
    """A column for each part of the memory."""
    parts = list(next(iter(rows.values())).memory)
    table = Table(title=f"memory in GB, of {hardware.memory / GIGA:.0f} on {hardware.name}")
    for heading in ("row", *parts, "most at once"):
        table.add_column(heading, justify="left" if heading == "row" else "right", overflow="fold")
    for label, cost in rows.items():
        sizes = [f"{_gigabytes(cost.memory[part])}" for part in parts]
        table.add_row(escape(label), *sizes, _gigabytes(cost.peak))
    return table


def _gigabytes(size: float) -> str:
    return f"{size / GIGA:.1f}" if size >= GIGA else f"{size / GIGA:.2g}"


def _show_settings(context: Context) -> None:
    console, suite = screen(), context.suite
    console.print(f"task:      {suite.task}", highlight=False)
    settings = {
        "train": suite.train.in_steps(suite.epoch_images or 1).model_dump(mode="json", exclude_none=True),
        "sample": suite.sample.model_dump(mode="json"),
        "benchmark": {"name": suite.benchmark.name, **suite.benchmark.settings},
    }
    for heading, value in settings.items():  # as a suite may say it
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()
        console.print(f"{f'{heading}:':<11}{text}", soft_wrap=True, highlight=False, markup=False)


def _assumptions(hardware: Hardware) -> str:
    if hardware.phases:
        measured = "; ".join(
            f"{name} {rates.flops / GIGA:.0f} GFLOP/s, {rates.bandwidth / GIGA:.3g} GB/s of new tensors, "
            f"{rates.operation * 1e6:.1f} microseconds an operation"
            for name, rates in hardware.phases.items()
        )
        stays = f"{hardware.bandwidth / GIGA:.3g} GB/s of tensors that stay, {hardware.disk / GIGA:g} GB/s to disk"
        return f"{measured}; {stays}; answers as long as targets"
    parts = (
        f"{hardware.share:.0%} of {hardware.flops / 1e12:.3g} TFLOP/s in bf16",
        f"of {hardware.flops_fp32 / 1e12:.3g} in float32",
        f"{hardware.bandwidth_share:.0%} of {hardware.bandwidth / 1e12:.3g} TB/s",
        f"{hardware.operation * 1e6:.1f} microseconds an operation",
        f"{hardware.disk / GIGA:g} GB/s to disk",
    )
    return f"{', '.join(parts)}; answers as long as targets"


def _seconds(costs: Sequence[CellEstimate | None]) -> float:
    return sum(cost.seconds for cost in costs if cost is not None)


def _total(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
