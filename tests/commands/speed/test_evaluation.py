"""The speed command on a tiny set: what it generates, what it reports, and that a disagreement is not overlooked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.readers import detections
from benchmarks.readers.annotations import load
from harness import registry
from harness.commands.app import main
from harness.commands.speed import evaluation, synthetic, whole_commands
from harness.commands.speed.evaluation import DetectionSetSize, EvaluationTiming
from harness.commands.speed.whole_commands import CommandCost, EvaluatedFiles
from harness.errors import ConfigError
from harness.system import timing


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return evaluation.generate(
        tmp_path_factory.mktemp("set"), DetectionSetSize(200, 20, 100), "lvis", 0, evaluation.INPUTS
    )


def test_all_kinds_of_file_hold_the_same_detections(files: dict[str, Path]) -> None:
    first, *others = (detections.load(files[kind]) for kind in evaluation.INPUTS)
    assert len(first) == 200 * 20
    for other in others:
        for column in ("image_id", "category_id", "boxes", "scores"):
            np.testing.assert_array_equal(getattr(first, column), getattr(other, column))


def test_a_generated_set_is_shaped_like_lvis(files: dict[str, Path]) -> None:
    loaded = load(files["annotations"], Path())
    per_image = [len(e.instances) for e in loaded.examples]
    assert 11 < np.mean(per_image) < 13
    assert len(loaded.categories) == 100
    # 337, 461 and 405 of LVIS v1's 1,203 categories are rare, common and frequent.
    frequencies = [category.frequency for category in loaded.categories]
    assert [frequencies.count(f) for f in ("r", "c", "f")] == [28, 38, 34]
    counts = np.bincount([i.category_id for e in loaded.examples for i in e.instances], minlength=101)
    assert counts[1] > 10 * np.median(counts[1:])
    for example in loaded.examples:
        present = {i.category_id for i in example.instances}
        assert not present & example.negative
    assert 0.1 < np.mean([bool(e.not_exhaustive) for e in loaded.examples]) < 0.3


def test_a_generated_coco_set_has_crowd_regions(tmp_path: Path) -> None:
    made = evaluation.generate(tmp_path, DetectionSetSize(100, 5, 80), "coco", 0, ("npz",))
    loaded = load(made["annotations"], Path(), "coco")
    assert len(loaded.examples) == 100
    assert 0 < sum(map(len, loaded.crowds.values())) < 50


def test_a_seed_gives_one_set(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in "abc")
    texts = []
    for folder, seed in ((first, 0), (again, 0), (other, 1)):
        folder.mkdir()
        made = evaluation.generate(folder, DetectionSetSize(5, 3, 80), "lvis", seed, ("json",))
        texts.append([path.read_bytes() for path in made.values()])
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[2][0]
    assert texts[0][1] != texts[2][1]


def test_some_detections_are_right_and_some_wrong(files: dict[str, Path]) -> None:
    result = evaluation.run_evaluation(str(files["annotations"]), str(files["npz"]), "lvis", "fast")
    assert 0.05 < result["figures"]["AP"] < 0.9
    assert result["stages"].keys() == {"annotations", "detections", "evaluate"}


def test_chunks_join_to_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "CHUNK", 4)
    rng = np.random.default_rng(0)
    generated = synthetic.generate_detections(
        synthetic.generate_objects(3, 80, rng), 3, rng
    )  # 9 rows: chunks of 4, 4 and 1
    synthetic.write_detections(tmp_path / "rows.json", generated)
    assert [row["score"] for row in json.loads((tmp_path / "rows.json").read_text())] == generated.scores.tolist()


WHOLE = (("hotcoco alone", "json"), ("detmodes", "json"), ("detmodes", "parquet"))


def call_here(reference: str, *arguments: Any) -> timing.Result:
    """Instead of `timing.isolated`: without a process, of which ten take most of a minute to start."""
    return timing.Result(1.0, 2.0, 100.0, registry.resolve(reference)(*arguments))


@pytest.mark.parametrize("isolated", [call_here, pytest.param(timing.isolated, marks=pytest.mark.slow)])
def test_the_command_measures_everything(
    isolated: Callable[..., timing.Result],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "isolated", isolated)
    if isolated is call_here:
        monkeypatch.setattr(whole_commands, "run_once", lambda *arguments: CommandCost(3.0, 4.0, 100.0, 0.5))
    output = tmp_path / "speed.json"
    assert evaluation.command(20, 10, 90, True, 0, output) == 0
    document = json.loads(output.read_text())
    engines = [(row["task"], row["protocol"], row["engine"], row["input"]) for row in document["measurements"]]
    assert engines == [
        *(("whole command", "lvis", *run) for run in WHOLE),
        *(("evaluate", "lvis", "fast", kind) for kind in ("json", "parquet", "npz")),
        *(("compare", "lvis", engine, "json") for engine in ("fast", "lvis", "fast")),
        *(("compare", "coco", engine, "json") for engine in ("fast", "pycocotools", "fast")),
        ("bootstrap, 1,000 replicates", "lvis", "own", "parquet"),
    ]
    assert document["differences"] == []
    assert all(row["seconds"] > 0 and row["peak_mib"] > 1 for row in document["measurements"])
    table = capsys.readouterr().out
    assert "| evaluate | 20 images, 200 detections, 90 categories | lvis | fast | json |" in table
    assert "| coco | pycocotools |" in table
    assert "| 20 images, 200 detections, 90 categories | 1.00 | 1.00 |" in table


def test_an_output_without_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/a\.json: expected a place in an existing folder"):
        evaluation.command(20, 10, 90, True, 0, tmp_path / "nowhere" / "a.json")


def test_the_verb_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[object] = []

    def command(*arguments: object) -> int:
        given.extend(arguments)
        return 1

    monkeypatch.setattr(evaluation, "command", command)
    options = {"images": "7", "detections-per-image": "3", "categories": "90", "seed": "5", "output": str(tmp_path)}
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["detmodes", "speed", "evaluation", "--no-references", *flags])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert given == [7, 3, 90, False, 5, tmp_path]


ROW = EvaluationTiming("compare", "lvis", "fast", "json", "a set", 2.0, 1.0, 100.0, figures={"AP": 0.5, "APr": None})


@pytest.mark.parametrize(
    ("figures", "differing"),
    [
        ({"AP": 0.5 + 1e-10, "APr": None}, 0),
        ({"AP": 0.5 + 1e-8, "APr": None}, 1),
        ({"AP": 0.5, "APr": 0.0}, 1),
        ({"AP": None, "APr": None}, 1),
    ],
)
def test_a_disagreement_is_reported(
    figures: dict[str, float | None],
    differing: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evaluation, "_inputs", lambda *arguments: [ROW, replace(ROW, engine="other", figures=figures)])
    monkeypatch.setattr(evaluation, "_whole_commands", lambda *arguments: [ROW])
    monkeypatch.setattr(evaluation, "_bootstrap", lambda *arguments: replace(ROW, task="bootstrap"))
    assert evaluation.command(1, 1, 80, False, 0, None) == (1 if differing else 0)
    problems = [line for line in capsys.readouterr().err.splitlines() if line.startswith("detmodes: lvis AP")]
    assert len(problems) == differing


def test_ratios_are_over_the_mean_of_the_fast_runs() -> None:
    reference = replace(ROW, engine="lvis", seconds=60.0, peak_mib=900.0)
    rows = [replace(ROW, seconds=1.0), reference, replace(ROW, seconds=3.0, peak_mib=200.0)]
    assert evaluation.ratios(rows) == [("lvis", "lvis", 30.0, 6.0)]  # 60 / 2 and 900 / 150
    assert evaluation.ratios([replace(ROW, task="evaluate")]) == []


def test_whole_commands_give_the_same_figures_and_a_ratio(files: dict[str, Path]) -> None:
    given = EvaluatedFiles(files["annotations"], files["json"])
    costs = whole_commands.measure_turns(whole_commands.TOOLS, given, 1, lambda text: None)
    (ours,), (theirs,) = costs["detmodes"], costs["hotcoco alone"]
    assert ours.ap == theirs.ap > 0.05
    assert ours.peak_mib > 20
    assert ours.cpu_seconds > 0.05
    slower = replace(ours, seconds=3.0, cpu_seconds=5.0)
    assert whole_commands.compare([slower], [replace(ours, seconds=2.0)]) == 1.5
    assert whole_commands.compare([slower], [replace(ours, cpu_seconds=2.0)], "cpu_seconds") == 2.5


def test_a_command_that_fails_is_told(files: dict[str, Path]) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 2: .*nowhere"):
        whole_commands.run_once(whole_commands.DETMODES, EvaluatedFiles(Path("nowhere"), files["json"]))
