"""A run that is killed, at any moment, ends in the record that it would have ended in."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.run import runner
from harness.run.resume_folder import ResumeWarning
from harness.training import checkpoints
from tests.run.resuming import BATCHES, SUITE, Reference, assert_ends_like, context, killed_at
from tests.support.processes.killing import Server, arguments, counted, flip_last_byte, outcome, suite_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), SUITE)
    yield started
    started.close()


@pytest.fixture(scope="module")
def reference(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    output = tmp_path_factory.mktemp("reference")
    first = server.run(output)
    assert (first.status, first.printed) == (0, "")
    return Reference(outcome(output), first.seconds)


@pytest.fixture(scope="module")
def usual_seconds(server: Server, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the faster one of two runs took: the first reads everything from the disk, and moments drawn from its
    time would mostly come after the end of the others."""
    again = server.run(tmp_path_factory.mktemp("again"))
    assert again.status == 0
    return min(reference.seconds, again.seconds)


def test_the_uninterrupted_run_has_everything(reference: Reference) -> None:
    """Else the comparisons below would prove less than they say."""
    base, sed = reference.outcome.values()
    assert {name for name in sed if name.endswith("safetensors")} == {
        "model.safetensors",
        *(f"model-step{step}.safetensors" for step in (2, 4, 6)),
    }
    assert [row["step"] for row in sed["record.json"]["curve"]] == [1, 2, 3, 4, 5, 6]
    kinds = [(row["kind"], row["step"]) for row in sed["metrics.jsonl"]]
    assert kinds == [
        *(("probe", 0), ("train", 1), ("train", 2), ("evaluation", 2), ("train", 3), ("probe", 3)),
        *(("train", 4), ("evaluation", 4), ("train", 5), ("train", 6), ("probe", 6), ("evaluation", 6)),
    ]
    assert [row["kind"] for row in base["metrics.jsonl"]] == ["evaluation"]
    assert {"resume", ".resume"} & (base.keys() | sed.keys()) == set()


# ---- killed at random --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(52))
def test_killed_at_a_random_moment(
    server: Server, reference: Reference, usual_seconds: float, tmp_path: Path, seed: int
) -> None:
    """One run, killed once and gone on with."""
    moments = random.Random(seed)
    killed = server.run(tmp_path, after=moments.uniform(0, usual_seconds))
    assert killed.status in (-signal.SIGKILL, 0)  # 0: it was faster than its model
    assert_ends_like(server, tmp_path, reference)


@pytest.mark.slow
def test_killed_again_and_again(server: Server, reference: Reference, usual_seconds: float, tmp_path: Path) -> None:
    """Every attempt is killed, until one is faster than its killer, who grows slower: from a twentieth of the whole
    time on, which no attempt is faster than where others leave the machine. Checkpoints are rare."""
    moments = random.Random(0)
    for attempt in range(60):
        last = server.run(tmp_path, after=moments.uniform(0, usual_seconds * (0.05 + attempt / 40)), every=4)
        if last.status == 0:
            break
        assert last.status == -signal.SIGKILL
    assert attempt > 2
    assert_ends_like(server, tmp_path, reference, every=4)


# ---- killed at a chosen place --------------------------------------------------------------------------------------


PLACES = {
    "in training": ("harness.training.loop", "accumulate", 4, "kill"),
    "in generation": ("harness.evaluation.scored_samples", "generate_batch", 2 * BATCHES + 2, "kill"),
    "in scoring": ("harness.evaluation.scored_samples", "_score", BATCHES + 2, "kill"),
    "as a checkpoint is written": ("harness.training.checkpoints", "save_file", 3, "kill-after"),
    "as a checkpoint is renamed": ("harness.training.checkpoints", "_require_readable", 3, "kill"),
    "as the older checkpoint is removed": ("harness.training.checkpoints", "_remove_all_but_one_before", 3, "kill"),
    "as a part of an evaluation is stored": ("harness.system.files", "write_text", 10, "kill"),
    "as an evaluation is stored": ("harness.run.resume_folder", "Evaluations._write_content", 3, "kill"),
    "after an evaluation is stored": ("harness.run.resume_folder", "Evaluations._made", 2, "kill-after"),
    "as the log is written": ("harness.records.log", "Log.add", 6, "kill-after"),
    "as the tables are written": ("harness.run.cell", "gallery_frame", 2, "kill"),
    "before the record is written": ("harness.records.record", "write_text", 2, "kill"),
    "after the record is written": ("harness.records.record", "write_text", 2, "kill-after"),
    "before the cell gets its name": ("harness.run.runner", "_keep_only", 2, "kill-after"),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_killed_at_a_chosen_place(server: Server, reference: Reference, tmp_path: Path, place: str) -> None:
    assert server.run(tmp_path, at=PLACES[place]).status == -signal.SIGKILL
    assert_ends_like(server, tmp_path, reference)


CHAIN = (
    ("harness.evaluation.scored_samples", "generate_batch", 2, "kill"),  # of the base
    ("harness.records.record", "write_text", 1, "kill-after"),
    ("harness.training.checkpoints", "save_file", 1, "kill-after"),  # before step 2
    ("harness.training.loop", "accumulate", 3, "kill"),
    ("harness.run.resume_folder", "Evaluations._write_content", 1, "kill"),  # after step 4
    ("harness.run.resume_folder", "Evaluations._made", 1, "kill-after"),
    ("harness.training.checkpoints", "_remove_all_but_one_before", 1, "kill"),  # after step 5
    ("harness.training.checkpoints", "_require_readable", 1, "kill"),  # after step 6
    ("harness.evaluation.scored_samples", "generate_batch", 2, "kill"),
    ("harness.evaluation.scored_samples", "_score", 1, "kill"),
    ("harness.run.cell", "gallery_frame", 1, "kill"),
    ("harness.records.record", "write_text", 1, "kill"),
    ("harness.run.runner", "_keep_only", 1, "kill-after"),
)
"""Calls are counted anew in each attempt, which begins where the one before it was killed."""


def test_killed_at_one_chosen_place_after_the_other(server: Server, reference: Reference, tmp_path: Path) -> None:
    for place in CHAIN:
        assert server.run(tmp_path, at=place).status == -signal.SIGKILL, place
    assert_ends_like(server, tmp_path, reference)


# ---- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "place", "code", "saved"),
    [
        pytest.param(
            "terminate", ("harness.training.loop", "accumulate", 5), 143, "step-00000005", marks=pytest.mark.slow
        ),
        ("interrupt", ("harness.training.loop", "accumulate", 3), 130, "step-00000003"),
        (
            "terminate",
            ("harness.evaluation.scored_samples", "generate_batch", BATCHES + 2),
            143,
            "*.parts/said-1.0-*.json",
        ),
    ],
)
def test_a_signal_is_obeyed_when_everything_is_saved(
    server: Server,
    reference: Reference,
    tmp_path: Path,
    action: str,
    place: tuple[str, str, int],
    code: int,
    saved: str,
) -> None:
    """Checkpoints are otherwise rarer than the steps at which the signal comes."""
    stopped = server.run(tmp_path, at=(*place, action), every=50)
    name = {143: "SIGTERM", 130: "SIGINT"}[code]
    message = f"detmodes: stopped by {name}; what was computed is saved: run the same command to go on\n"
    assert (stopped.status, stopped.printed) == (code, message)
    assert list(tmp_path.glob(f"cells/.open_flamingo-sed-*/resume/{saved}"))
    assert_ends_like(server, tmp_path, reference, every=50)


@pytest.mark.slow
def test_the_program_itself(reference: Reference, server: Server, tmp_path: Path) -> None:
    """`python -m harness run`, terminated from outside as the second cell begins."""
    command = [sys.executable, "-P", "-m", "detmodes", *arguments(suite_file(tmp_path, SUITE), tmp_path / "out", 1)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out/cells/.open_flamingo-sed-*/resume")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate()
    assert process.returncode == 143
    assert message.startswith("detmodes: stopped by SIGTERM; ")
    assert_ends_like(server, tmp_path / "out", reference)


# ---- the disk ------------------------------------------------------------------------------------------------------


FULL = {
    "a checkpoint": ("harness.training.checkpoints", "save_file", 4),
    "an evaluation": ("harness.run.resume_folder", "Evaluations._made", 3),
    "the tables": ("harness.run.cell", "_Run.write_tables", 2),
}
OFTEN = ("a checkpoint",)


@pytest.mark.parametrize("what", [pytest.param(n, marks=() if n in OFTEN else pytest.mark.slow) for n in FULL])
def test_a_full_disk(server: Server, reference: Reference, tmp_path: Path, what: str) -> None:
    full = server.run(tmp_path, at=(*FULL[what], "full"))
    assert full.status == 2
    (line,) = full.printed.splitlines()
    assert re.match(r"detmodes: .* limit on the size of files .*make room, then run the same command again", line)
    (work,) = tmp_path.glob("cells/.open_flamingo-sed-*")
    assert [path.name for path in work.glob("resume/step-*")]
    assert not list(work.glob("resume/.*.partial"))
    assert_ends_like(server, tmp_path, reference)


# ---- in this process -------------------------------------------------------------------------------------------------


def test_nothing_that_was_kept_is_computed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed in the second batch of the second evaluation, after step 4 of 6: what is left is 2 batches of it, 2 steps
    and the 3 batches of the third evaluation."""
    killed_at(monkeypatch, tmp_path, "harness.evaluation.scored_samples.generate_batch", 3 + 2)
    steps, batches = (
        counted(monkeypatch, name)
        for name in ("harness.training.loop.accumulate", "harness.evaluation.scored_samples.generate_batch")
    )
    (record,) = runner.run(context(), tmp_path, "*-sed-*")
    assert (len(steps), len(batches)) == (2, 2 + 3)
    assert record.steps == (2, 4, 6)
    for name in ("seconds", "waiting"):
        total = [row[name] for row in record.curve]
        assert total == sorted(total)  # the clock goes on
    assert record.timings["waiting"] == record.curve[-1]["waiting"] < record.curve[-1]["seconds"]
    assert record.timings["evaluate"] > 0


@pytest.fixture(scope="module")
def _killed_in_step_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 2 and 3, an evaluation of step 2."""
    output = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, output, "harness.training.loop.accumulate", 4)
    return output


@pytest.fixture
def killed(_killed_in_step_4: Path, tmp_path: Path) -> Path:
    """A copy of that output folder, to be damaged."""
    return Path(shutil.copytree(_killed_in_step_4, tmp_path / "killed"))


def resume_folder(output: Path) -> Path:
    (folder,) = output.glob("cells/.open_flamingo-sed-*/resume")
    return folder


def finished_after_damage(output: Path, reference: Reference, *warnings: str) -> None:
    """The run goes on with these warnings and ends as ever."""
    with pytest.warns(ResumeWarning) as warned:
        runner.run(context(), output, "*-sed-*")
    assert len(warned) == len(warnings)
    for warning, expected in zip(warned, warnings, strict=True):
        assert re.search(expected, str(warning.message))
    (cell,) = outcome(output).values()
    assert cell == list(reference.outcome.values())[1]


def test_a_damaged_newest_snapshot(killed: Path, reference: Reference) -> None:
    places = sorted(path.name for path in resume_folder(killed).glob("step-*"))
    assert places == ["step-00000002", "step-00000003"]
    flip_last_byte(resume_folder(killed) / "step-00000003" / checkpoints.TENSORS)
    finished_after_damage(killed, reference, r"checkpoint step-00000003 is of no use.*not what was written")


def test_no_usable_snapshot(killed: Path, reference: Reference) -> None:
    """The evaluation of step 2 is still good, once there is a model of that step again."""
    for place in resume_folder(killed).glob("step-*"):
        (place / checkpoints.STATE).write_text("{")
    expected = "checkpoint step-00000003 is of no use", "checkpoint step-00000002 is of no use"
    finished_after_damage(killed, reference, *expected)


def test_a_damaged_evaluation_takes_its_later_checkpoints_with_it(killed: Path, reference: Reference) -> None:
    """The model that was evaluated after step 2 is gone; the checkpoint of that step still has it."""
    (evaluation,) = resume_folder(killed).glob("evaluation-00000002-*")
    (evaluation / "mentions.parquet").unlink()
    finished_after_damage(
        killed,
        reference,
        r"checkpoint step-00000003 is of no use.*mentions\.parquet: missing",
        r"evaluation at step 2 is made again: .*mentions\.parquet: missing",
    )


def test_a_damaged_part_is_made_again(monkeypatch: pytest.MonkeyPatch, reference: Reference, tmp_path: Path) -> None:
    killed_at(monkeypatch, tmp_path, "harness.evaluation.scored_samples.generate_batch", 3)
    parts = sorted(resume_folder(tmp_path).glob("*.parts/said-*"))
    assert len(parts) == 2
    parts[0].write_text(parts[0].read_text().replace("-0.", "-1.", 1))
    finished_after_damage(tmp_path, reference, r"a part of an evaluation is made again: .*said-1\.0-")


def test_what_is_kept_is_of_these_settings(killed: Path) -> None:
    """`keep` changes no result, so it is not in the cell's name; but it says which weights an evaluation keeps."""
    with pytest.warns(ResumeWarning, match="settings: expected .* keep: none, got .* keep: all"):
        (record,) = runner.run(context(keep="none"), killed, "*-sed-*")
    assert not {name for name in record.files if name.endswith(".safetensors")}


def test_a_failed_cell_starts_anew(monkeypatch: pytest.MonkeyPatch, killed: Path) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr("harness.training.loop.accumulate", failing)
        (record,) = runner.run(context(), killed, "*-sed-*")
    assert (record.status, record.error) == ("failed", "RuntimeError: no such luck")
    assert not list(killed.glob("cells/*/resume"))
    steps = counted(monkeypatch, "harness.training.loop.accumulate")
    (record,) = runner.run(context(), killed, "*-sed-*")
    assert (record.status, len(steps)) == ("finished", 6)
