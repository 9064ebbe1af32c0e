"""`detmodes.load` and `detmodes.run`: tables and verdicts of a run are those of its report."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import detmodes
from harness.commands.run import launch
from harness.report.publish import publish
from harness.report.renderers.text import to_category_csv, to_csv, to_markdown
from harness.report.results import load as load_results
from harness.report.verdicts import verdicts
from harness.system.interrupts import Interrupted
from tests.support import fake_cells

ORACLES: dict[str, Any] = {
    "suite": "small",
    "benchmark": {"name": "shapes", "domain": "plain", "train_images": 4, "val_images": 4},
    "models": ["oracle-uniform", "oracle-collapsed"],
    "seeds": [0],
    "sample": {"samples": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two rows; one cell failed, one is missing."""
    place = tmp_path_factory.mktemp("run")
    suite = fake_cells.suite(seeds=[0, 1, 2])
    return fake_cells.write_run(place, suite, images=12, failed=[("ce", 2)], missing=[("sed", 2)])


def test_tables_are_those_of_the_report(folder: Path) -> None:
    """The CSV files have six digits."""
    runs, results = detmodes.load(folder), load_results(folder)
    for name, text in (("figures", to_csv(results)), ("categories", to_category_csv(results))):
        frame, expected = runs.to_pandas(name), pd.read_csv(io.StringIO(text))  # type: ignore[arg-type]
        shared = [column for column in expected.columns if column in frame.columns]
        assert {"figure", "estimate", "low", "high", "seeds"} <= set(shared)
        pd.testing.assert_frame_equal(frame[shared], expected[shared], check_dtype=False, atol=5e-7, rtol=0)
    assert runs.to_markdown() == runs._repr_markdown_() == to_markdown(results)


def test_cells_that_are_not_there_are_named(folder: Path) -> None:
    runs = detmodes.load(str(folder))
    assert runs.failed == {"toy ce seed 2": "ValueError: no luck"}
    assert runs.missing == ["toy sed seed 2"]
    assert runs.suite.suite == "fake"
    assert [finding.hypothesis.id for finding in runs.verdicts] == ["H1", "H2", "H3"]
    assert [finding.outcome for finding in runs.verdicts] == [
        verdict.outcome for verdict in verdicts(load_results(folder))
    ]


def test_tables_of_cells_are_put_together(folder: Path) -> None:
    frame = detmodes.load(folder).to_pandas("detections")
    assert frame.columns[:3].tolist() == ["model", "row", "seed"]
    rows = frame.groupby(["row", "seed"]).size()
    assert sorted(rows.index.tolist()) == sorted(
        [("base", 0), ("oracle-uniform", 0), ("oracle-collapsed", 0)]
        + [(row, seed) for row in ("ce", "sed") for seed in (0, 1)]
    )
    (cell,) = folder.glob("cells/toy-sed-s1-*")
    assert rows["sed", 1] == len(pd.read_parquet(cell / "detections.parquet"))


def test_a_published_run_has_no_samples(tmp_path: Path) -> None:
    whole = fake_cells.write_run(tmp_path / "run", fake_cells.suite(), images=12)
    publish(whole, tmp_path / "published")
    published = detmodes.load(tmp_path / "published")
    pd.testing.assert_frame_equal(published.to_pandas(), detmodes.load(whole).to_pandas())
    with pytest.raises(detmodes.DataError, match="no finished cell has the table samples; published runs have images"):
        published.to_pandas("samples")
    with pytest.raises(detmodes.ConfigError, match="unknown table 'sample', did you mean 'samples'"):
        published.to_pandas("sample")  # type: ignore[arg-type]


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    place = fake_cells.write_run(tmp_path, fake_cells.suite(seeds=[0]), images=12)
    runs = detmodes.load(place)
    (cell,) = place.glob("cells/toy-ce-s0-*")
    frame = pd.read_parquet(cell / "detections.parquet")
    frame.assign(score=0.5).to_parquet(cell / "detections.parquet")
    with pytest.raises(detmodes.DataError, match=r"detections\.parquet"):
        runs.to_pandas("detections")


def test_a_suite_runs_from_a_mapping_and_from_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the identity of the oracles: uniform names are diverse, the collapsed one's are not."""
    made = detmodes.run(ORACLES, tmp_path / "out", device="cpu")
    assert capfd.readouterr() == ("", "")
    figures = made.to_pandas().set_index(["row", "figure"])["estimate"]
    assert figures["oracle-collapsed", "unique_name_sequences"] == 0.5  # of two samples
    assert set(made.to_pandas("samples")["row"]) >= {"oracle-uniform", "oracle-collapsed"}
    assert set(made.to_pandas("mentions").columns) >= {"model", "row", "seed", "name", "x", "y", "w", "h"}
    path = tmp_path / "small.yaml"
    path.write_text("suite: small\n" + "".join(f"{key}: {value}\n" for key, value in ORACLES.items() if key != "suite"))
    again = detmodes.run(path, tmp_path / "out", device="cpu", only="oracle-*", quiet=False)
    pd.testing.assert_frame_equal(again.to_pandas(), made.to_pandas())
    assert "oracle-uniform-s0" in capfd.readouterr().err  # a line for each cell


def test_what_is_wrong_with_a_suite_is_said_before_it_runs(tmp_path: Path) -> None:
    with pytest.raises(detmodes.ConfigError, match="suite: unknown key 'seedz', did you mean 'seeds'"):
        detmodes.run({**ORACLES, "seedz": [1]}, tmp_path / "out")
    with pytest.raises(detmodes.ConfigError, match="unknown suite 'quickstat'"):
        detmodes.run("quickstat")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_is_one_for_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line ends with an exit code of its own; at a prompt work goes on."""

    def stop(_: launch.RunOptions) -> int:
        raise Interrupted(2)

    monkeypatch.setattr(launch, "here", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT"):
        detmodes.run(ORACLES, tmp_path)
