"""Several processes compute one cell together: the same results, one writer, and no hang when one of them is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file

from harness import objectives, records
from harness.records import Record
from harness.run import runner
from harness.run.context import open_context
from tests.run.test_resume import cell_outcome
from tests.support import small
from tests.support.ranks import grpo_ranks, ranked, three_ranks

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
LIMIT = 600.0
"""Seconds after which a hang is a hang: starting processes takes many of them on a busy machine."""


def start(processes: int, *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, str(processes), "-m", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launch(processes: int, *command: str, **environment: str) -> tuple[int, str]:
    """Exit code, and what was printed."""
    process = start(processes, *command, **environment)
    printed, _ = process.communicate(timeout=LIMIT)
    return process.returncode, printed


def found(processes: int, folder: Path, *command: str, **environment: str) -> list[dict[str, Any]]:
    """What each rank left in the folder, the last argument of the command."""
    code, printed = launch(processes, *command, str(folder), **environment)
    assert code == 0, printed[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


# ---- what they tell each other ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return found(3, tmp_path_factory.mktemp("three"), "tests.support.ranks.three_ranks")


def test_values_reach_every_rank(three: list[dict[str, Any]]) -> None:
    assert [own["same"] for own in three] == ["of 0"] * 3
    assert [own["gathered"] for own in three] == [[0, 1, 2], [], []]
    assert [own["tensors"] for own in three] == [[[[True, False]], 1.5, [], [0, 1, 2]]] * 3
    assert [own["afterwards"] for own in three] == [0] * 3


def test_all_ranks_stop_for_a_signal_that_one_got(three: list[dict[str, Any]]) -> None:
    assert [own["signal"] for own in three] == [max(signal.SIGTERM, signal.SIGINT)] * 3
    assert [own["interrupted"] for own in three] == ["SIGTERM"] * 3


@pytest.mark.parametrize("where", ["at the end", "while they meet", "while they share", "while they gather"])
def test_what_fails_on_one_rank_fails_on_all(three: list[dict[str, Any]], where: str) -> None:
    """And they go on from there: nobody is left waiting."""
    elsewhere = "ElsewhereError: process 1: ValueError: a bad value"
    assert [own[f"one fails {where}"] for own in three] == [elsewhere, "ValueError: a bad\nvalue", elsewhere]


def test_seven_images_are_shared_without_duplicates_or_losses(three: list[dict[str, Any]]) -> None:
    """In batches of two, at two temperatures: of four batches each, rank 0 makes two and the others one. The answers
    are those of one process, to the last bit. Of what was kept, nothing is made again."""
    (answers, scores, images), _ = three[0]["shared"]["first"]
    alone = three[0]["shared"]["alone"]
    assert [answers, scores] == alone[:2]
    assert len(answers) == three_ranks.IMAGES
    assert sum(images) == sum(alone[2]) == 2 * three_ranks.IMAGES
    made = [own["shared"]["first"][1] for own in three]
    assert [len(images) for images in made] == [4, 2, 2]
    assert sorted(made[0] + made[1] + made[2]) == sorted([1, 3, 5, 7] * 2)
    (answers, scores, _), _ = three[0]["shared"]["second"]
    assert [answers, scores] == alone[:2]
    assert [len(own["shared"]["second"][1]) for own in three] == [1, 1, 0]
    assert three[1]["shared"]["first"][0][0] == []  # only rank 0 goes on with them


# ---- training, and whole cells ---------------------------------------------------------------------------------------


def threshold() -> float:
    """None of the masses that it is compared with, in any of the ten steps, is within 1e-5 of it."""
    for candidate in (0.8, 0.79, 0.81, 0.78, 0.82):
        if min(ranked.nearest_mass(case, candidate) for case in ("sed_sft live", "sed_sft base")) > 1e-5:
            return candidate
    raise AssertionError("each candidate is close to some mass")


class Two:
    """Two ranks' curves and cells, and those of one process."""

    def __init__(self, folder: Path) -> None:
        self.threshold = threshold()
        self.folder = folder
        self.first, self.second = found(2, folder, "tests.support.ranks.ranked", "two", THRESHOLD=str(self.threshold))
        runner.run(open_context(ranked.SUITE, None, "cpu"), folder / "alone", "open_flamingo-*")

    def cells(self, label: str) -> tuple[Path, Path]:
        """Of the two ranks, and of one process."""
        (together,), (alone,) = (
            (self.folder / of / "cells").glob(f"open_flamingo-{label}-*") for of in ("cells", "alone")
        )
        return together, alone


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    return Two(tmp_path_factory.mktemp("two"))


@pytest.mark.slow
def test_every_objective_is_there() -> None:
    assert {case.split()[0] for case in ranked.CASES} == set(objectives.OBJECTIVES)


@pytest.mark.slow
@pytest.mark.parametrize("case", ranked.CASES)
def test_the_loss_curve_is_that_of_one_process(two: Two, case: str) -> None:
    """Over ten steps with the same global batch. Both ranks see the same losses."""
    curve = two.first["curves"][case]
    assert curve == two.second["curves"][case]
    assert len(set(curve)) == 10
    np.testing.assert_allclose(curve, ranked.curve(case, small.accelerator(), two.threshold), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_ranks_make_the_same_cells(two: Two) -> None:
    """Of a model that is not trained, to the last bit; of trained ones, as far as sums in another order go."""
    assert two.first["cells"]["cells"] == [
        ["base", "finished", None],
        ["ce", "finished", None],
        ["sed", "finished", None],
    ]
    together, alone = (records.read(folder) for folder in two.cells("base"))
    assert together.evaluations == alone.evaluations
    for name in records.TABLES:
        one, other = (pd.read_parquet(folder / f"{name}.parquet") for folder in two.cells("base"))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    for label in ("ce", "sed"):
        together, alone = (records.read(folder) for folder in two.cells(label))
        assert together.steps == alone.steps == (2, 4)
        assert together.threshold == alone.threshold
        for key in ("loss", "grad_norm"):
            values, expected = ([row[key] for row in record.curve] for record in (together, alone))
            np.testing.assert_allclose(values, expected, rtol=1e-5)
        weights = [load_file(folder / "model.safetensors") for folder in two.cells(label)]
        for name, tensor in weights[1].items():
            np.testing.assert_allclose(weights[0][name], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_record_says_how_many_made_it(two: Two) -> None:
    for label in ("base", "ce"):
        assert [records.read(folder).device["processes"] for folder in two.cells(label)] == [2, 1]


@pytest.mark.slow
def test_only_rank_0_writes(two: Two) -> None:
    """The cells above are whole, though the system let rank 1 write nothing; it has no records of its own."""
    for folder in [two.cells(label)[0] for label in ("base", "ce", "sed")]:
        records.verify_files(records.read(folder), folder, list(records.read(folder).files))
    assert two.second["cells"]["cells"] == []
    left = {path.name for path in (two.folder / "cells").iterdir()}
    assert left == {path.name for path in (two.folder / "alone").iterdir()}


@pytest.mark.slow
def test_a_failure_of_one_rank_is_a_failed_cell_and_the_run_goes_on(two: Two) -> None:
    found = two.first["cells"]
    said = "process 1: RuntimeError: no such luck"
    assert found["rank 1 fails in training"] == [["base", "finished", None], ["ce", "failed", said]]
    assert found["rank 1 fails in generation"] == [["base", "failed", said]]
    assert found["rank 0 fails in evaluation"] == [["base", "failed", "RuntimeError: no such luck"]]
    assert all(two.second["cells"][name] == [] for name in found if "fails" in name)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_of_all(two: Two) -> None:
    (said,), (heard,) = (found["cells"]["the disk is full"] for found in (two.first, two.second))
    assert said.startswith("the disk is full while writing")
    assert heard == f"process 0: DataError: {said}"


# ---- the program -----------------------------------------------------------------------------------------------------


def arguments(folder: Path, output: str) -> list[str]:
    suite = folder / "suite.yaml"
    suite.write_text(yaml.safe_dump(ranked.SUITE.model_dump(mode="json", exclude_defaults=True)))
    only = ["--only", "open_flamingo-ce-*", "--snapshot-every", "1", "--device", "cpu", "--quiet"]
    return ["run", str(suite), "--output", str(folder / output), *only]


def program(folder: Path, output: str, **environment: str) -> tuple[int, list[str]]:
    """`detmodes run` with two ranks; exit code, and what it said itself."""
    code, printed = launch(
        2, "tests.support.ranks.ranked", "program", str(folder), *arguments(folder, output), **environment
    )
    return code, [line for line in printed.splitlines() if line.startswith("detmodes: ")]


def finished_alone(output: Path) -> Record:
    (record,) = runner.run(open_context(ranked.SUITE, None, "cpu"), output, "open_flamingo-ce-*")
    assert record.status == "finished"
    return record


def steps_kept(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("cells/.open_flamingo-ce-*/resume/step-*"))


def test_a_rank_that_is_killed_ends_the_run_with_one_message(tmp_path: Path) -> None:
    """Rank 1, as it begins step 4: no hang, no record, and one process goes on where they were."""
    code, said = program(tmp_path, "out", KILL="1 4")
    assert code != 0
    (line,) = said
    assert line.startswith("detmodes: another process of this run has ended; what was computed is saved: run the same")
    assert not list((tmp_path / "out").glob("cells/[!.]*"))
    assert steps_kept(tmp_path / "out")[-1] == "step-00000003"
    record = finished_alone(tmp_path / "out")
    assert [row["step"] for row in record.curve] == [1, 2, 3, 4]
    assert record.device["processes"] == 1
    assert record.device["batch_invariant"]


@pytest.mark.slow
def test_what_two_ranks_began_two_ranks_finish_to_the_last_bit(tmp_path: Path) -> None:
    assert program(tmp_path, "whole") == (0, [])
    for killed in ("1 2", "0 2"):  # of the steps that are left: the second one in all, then the third
        code, said = program(tmp_path, "killed", KILL=killed)
        assert (code != 0, len(said)) == (True, 1)
    assert program(tmp_path, "killed") == (0, [])
    (whole,), (again,) = (sorted((tmp_path / of / "cells").iterdir()) for of in ("whole", "killed"))
    assert cell_outcome(again) == cell_outcome(whole)


@pytest.mark.slow
def test_a_signal_stops_all_ranks_after_the_same_step(tmp_path: Path) -> None:
    """As a scheduler sends it: to torchrun, which passes it on."""
    changes = {**ranked.CHANGES, "train": {"steps": 2000, "batch_size": 4}}
    command = arguments(tmp_path, "out")
    (tmp_path / "suite.yaml").write_text(
        yaml.safe_dump(small.mini_suite(**changes).model_dump(mode="json", exclude_defaults=True))
    )
    process = start(2, "detmodes", *command, "--snapshot-every", "1000")
    deadline = time.monotonic() + LIMIT
    while not list((tmp_path / "out").glob("cells/.*/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    printed, _ = process.communicate(timeout=LIMIT)
    said = [line for line in printed.splitlines() if line.startswith("detmodes: ")]
    assert said == ["detmodes: stopped by SIGTERM; what was computed is saved: run the same command to go on"]
    assert len(steps_kept(tmp_path / "out")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["run", "nosuch"], "unknown suite 'nosuch'"),
        (["run", "quickstart", "--jobs", "2"], "--jobs: expected one process, got 3"),
        (["run", "quickstart", "--dry-run"], "--dry-run: expected one process, got 3"),
        (
            ["run", "quickstart", "--device", "cpu", "--output", "OUT"],
            "train.batch_size: expected a multiple of 3 proc",
        ),
    ],
)
def test_bad_input_is_said_once(command: list[str], expected: str, tmp_path: Path) -> None:
    code, printed = launch(3, "detmodes", *(str(tmp_path / "out") if word == "OUT" else word for word in command))
    (line,) = [line for line in printed.splitlines() if line.startswith("detmodes: ")]
    assert expected in line
    assert (code, "exitcode  : 2" in printed) == (1, True)
    assert not list(tmp_path.iterdir())


# ---- reinforcement learning ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_learn_from_their_samples_as_one_process_does(tmp_path: Path) -> None:
    """Each draws from half of the images, with the same random numbers; updates are of the images of both. One with
    fewer images that differ in reward takes part all the same."""
    first, second = found(2, tmp_path, "tests.support.ranks.grpo_ranks")
    assert first == second
    alone = grpo_ranks.outcome()
    for row, other in zip(first["curve"], alone["curve"], strict=True):
        assert row.keys() == other.keys()
    steps = [row for row in first["curve"] if "reward" in row]
    same = next(row for row in alone["curve"] if "reward" in row)
    for name in ("reward", "filtered", "objects", "entropy"):  # of the first step: before the order of sums tells
        assert steps[0][name] == pytest.approx(same[name], rel=1e-5)
