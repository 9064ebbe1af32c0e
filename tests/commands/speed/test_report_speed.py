"""`detmodes speed report`: the generated run is one that a report can be made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands.speed import report as speed
from harness.commands.speed import synthetic_run
from harness.registry import resolve
from harness.report.results import load
from harness.system import timing


def test_a_generated_run_is_a_run(tmp_path: Path) -> None:
    synthetic_run.write_run(tmp_path, synthetic_run.suite_of(12), images=15, seed=0)
    results = load(tmp_path)
    assert len(results.records) == 12
    assert {len(record.image_ids) for record in results.records.values()} == {15}
    for key, record in results.records.items():
        assert 0 < results.points(key, record.steps[-1])["AP"] < 1  # and it is that of the tables


@pytest.mark.slow
def test_the_command_measures_the_first_report_and_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = []

    def call_here(reference: str, *arguments: str, threads: int) -> timing.Result:
        assert threads == 1
        lengths.append(resolve(reference)(*arguments))
        return timing.Result(1.0, 2.0, 3.0, lengths[-1])

    monkeypatch.setattr(timing, "isolated", call_here)
    assert speed.command(images=12, cells=12, seed=0) == 0
    assert lengths[0] == lengths[1] > 1000
    assert "| again | 1.0 | 2.0 | 3 | 10 s |" in capsys.readouterr().out
