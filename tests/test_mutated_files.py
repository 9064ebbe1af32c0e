"""Whole files, damaged at random, through the readers of every kind: each ends in a result, or in one clear line and
exit code 2; never in a traceback, a fault of detmodes (exit code 70), or an error that names no file.

A mutation is a function of its kind and seed: `pytest -k KIND` runs one kind, and a failure names its seed.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness import records
from harness.commands import app
from harness.errors import ConfigError, DetmodesError
from harness.report.renderers import text
from harness.report.results import load
from harness.suite import load as suite_files
from harness.system.files import sha256
from harness.system.terminal import escape_controls
from tests.benchmarks.evaluators.mutations import damaged, edited, mutation
from tests.benchmarks.readers.sample_files import TRUTH, cell, lines, rows
from tests.support import fake_cells

Outcome = tuple[int, list[str]]
"""Exit code, and the lines of problems."""
SHOWN = 700


def answer(*arguments: str) -> Outcome:
    """What the command line answers."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["detmodes", *arguments])
        try:
            app.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
    return code, [line for line in err.getvalue().splitlines() if not line.startswith("detmodes: warning: ")]


def result_of(function: Callable[[], object]) -> Outcome:
    """The same of what a verb does before it computes: `main` ends with these lines."""
    try:
        function()
    except DetmodesError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        return 2, [f"detmodes: {escape_controls(problem)}" for problem in problems]
    return 0, []


# ---- one mutation of each kind -----------------------------------------------------------------------------------


def evaluated(folder: Path, seed: int) -> Outcome:
    """Annotations and detections, as JSON, NPZ and Parquet."""
    made, _ = mutation(seed)
    truth, results = folder / "truth.json", folder / f"results{made.suffix}"
    truth.write_bytes(made.truth)
    results.write_bytes(made.results)
    options = ["--annotations", str(truth), "--detections", str(results), "--protocol", made.protocol]
    return answer("evaluate", *options, "--quiet", *(["--no-diagnostics"] if seed % 4 else []))


def measured_lines(folder: Path, seed: int) -> Outcome:
    """Samples as JSON Lines."""
    rng = random.Random(f"lines {seed}")
    path = lines(folder, rows())
    if rng.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:
        content: list[Any] = json.loads(edited(rows(), rng))
        text = (json.dumps(line) + "\n" for line in (content if isinstance(content, list) else [content]))
        path.write_text("".join(text))
    return measured(folder, path)


def measured_tables(folder: Path, seed: int) -> Outcome:
    """Samples as the tables of a cell."""
    rng = random.Random(f"tables {seed}")
    place = cell(folder, rows())
    table = place / f"{rng.choice(['samples', 'mentions'])}.parquet"
    change_table(table, rng)
    return measured(folder, place)


def measured(folder: Path, samples: Path) -> Outcome:
    (folder / "truth.json").write_text(json.dumps(TRUTH))
    return answer("measure", str(samples), "--annotations", str(folder / "truth.json"), "--quiet")


def change_table(path: Path, rng: random.Random) -> None:
    """Other bytes; or a column lost, of another type, of lists, or with one other value."""
    if rng.random() < 0.4:
        path.write_bytes(damaged(path.read_bytes(), rng))
        return
    frame = pd.read_parquet(path)
    name = rng.choice(list(frame.columns))
    values = frame[name].tolist()
    kind = rng.randrange(6)
    if kind == 0:
        frame = frame.drop(columns=name)
    elif kind == 1:
        frame[name] = pd.Series([[value] for value in values], index=frame.index)
    elif kind == 2:
        frame = frame.assign(**{name: rng.choice(["x", True, None, 2**62, -1, 1e308, float("nan")])})
    elif kind == 3:
        frame[name] = pd.Series([{"value": str(value)} for value in values], index=frame.index)
    elif kind == 4:
        frame = frame.sample(frac=rng.choice([0, 0.5, 1.5]), replace=True, random_state=rng.randrange(99))
    else:
        frame = frame.rename(columns={name: rng.choice([*frame.columns, "", name.upper()])})
    if not frame.columns.has_duplicates:
        frame.to_parquet(path, index=False)


def suite_is_read(folder: Path, seed: int) -> Outcome:
    """A shipped suite, as YAML text and as what it says."""
    rng = random.Random(f"suite {seed}")
    shipped = sorted(path.name for path in files("benchmarks").joinpath("suites").iterdir())
    content = files("benchmarks").joinpath("suites", rng.choice(shipped)).read_bytes()
    path = folder / "suite.yaml"
    if rng.random() < 0.5:
        path.write_bytes(damaged(content, rng))
    else:
        changed = json.loads(edited(yaml.safe_load(content), rng))
        path.write_text(json.dumps(changed) if rng.random() < 0.5 else yaml.safe_dump(changed))
    return result_of(lambda: suite_files.load(str(path)))


def run_is_reported(folder: Path, seed: int) -> Outcome:
    """The files of a run: suite, list of cells, records and tables; with the digests that whoever writes them gives."""
    rng = random.Random(f"run {seed}")
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole_run(folder), run)
    (place,) = run.glob("cells/toy-ce-*")
    path = rng.choice([run / "suite.json", run / "cells.json", *[place / records.RECORD] * 4])
    if rng.random() < 0.4:
        path = place / rng.choice(["images.parquet", "detections.parquet"])
        change_table(path, rng)
        content = json.loads((place / records.RECORD).read_text())
        fake_cells.rewrite(place, files={**content["files"], path.name: sha256(path)})
    elif rng.random() < 0.3:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:
        path.write_bytes(edited(json.loads(path.read_text()), rng))
    return result_of(lambda: text.to_csv(load(run)))


def whole_run(folder: Path) -> Path:
    """Written once for each folder."""
    if not (folder / "whole").exists():
        suite = fake_cells.suite(objectives=["ce"], seeds=[0], early_stops=[], hypotheses=[], sample={"samples": 2})
        fake_cells.write_run(folder / "whole", suite, images=3)
    return folder / "whole"


KINDS: dict[str, tuple[Callable[[Path, int], Outcome], int]] = {
    # name: (what is done with a mutation, how many the slow test makes)
    "evaluate": (evaluated, 6000),
    "samples": (measured_lines, 4000),
    "tables": (measured_tables, 2000),
    "suites": (suite_is_read, 2000),
    "runs": (run_is_reported, 1400),
}


# ---- the property ------------------------------------------------------------------------------------------------


def outcomes(kind: str, seeds: range, folder: Path) -> tuple[Counter[int], dict[int, str]]:
    """How often each exit code came, and what was wrong, by seed."""
    function, _ = KINDS[kind]
    codes: Counter[int] = Counter()
    wrong: dict[int, str] = {}
    for seed in seeds:
        try:
            code, problems = function(folder, seed)
        except Exception as error:  # whatever it is: that is what is tested
            wrong[seed] = f"{type(error).__name__}: {error}"[:SHOWN]
            continue
        codes[code] += 1
        if not is_good(code, problems, folder):
            wrong[seed] = f"exit code {code}: {problems}"[:SHOWN]
    return codes, wrong


def is_good(code: int, problems: list[str], folder: Path) -> bool:
    """A result and nothing to complain about; or what is wrong with which file, a printable line for each problem."""
    if code == 0:
        return not [line for line in problems if "Traceback" in line or "Warning" in line]
    return (
        code == 2
        and len(problems) > 0
        and all(
            line.startswith("detmodes: ")
            and line.isprintable()
            and str(folder) in line
            and len(line) < SHOWN + len(str(folder))
            for line in problems
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_some_mutated_files_end_in_a_result_or_one_line(kind: str, tmp_path: Path) -> None:
    codes, wrong = outcomes(kind, range(20_000, 20_030), tmp_path)
    assert wrong == {}
    assert set(codes) == {0, 2}  # both are tried


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_15400_mutated_files_end_in_a_result_or_one_line(kind: str, tmp_path: Path) -> None:
    codes, wrong = outcomes(kind, range(KINDS[kind][1]), tmp_path)
    print(f"{kind}: {codes[0]:,} results, {codes[2]:,} refused")
    assert wrong == {}


def test_there_are_15400_of_them() -> None:
    assert sum(count for _, count in KINDS.values()) == 15_400
