"""`detmodes speed peers` on the tiniest sets: every package computes what ours does. No speed is tested."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.commands.app import main
from harness.commands.speed import TABLES
from harness.commands.speed.evaluation import DetectionSetSize, generate
from harness.commands.speed.peers import page, scoring, training
from harness.commands.speed.peers.scoring import PeerTiming
from harness.commands.speed.whole_commands import CommandCost, EvaluatedFiles, run_once
from harness.errors import ConfigError
from harness.metrics.detection.rules import Protocol
from harness.registry import resolve

OURS = CommandCost(2.0, 3.0, 100.0, 0.25)
ROW = PeerTiming("lvis", "hotcoco", "a set", 2.0, 3.0, 100.0, 0.25, dict.fromkeys(scoring.QUANTITIES, 1.0), 0.0)
DOCUMENT: dict[str, Any] = {
    "machine": {"processor": "one", "cores": 2, "memory_gib": 8, "load": 0.1, "packages": {}},
    "scoring": [asdict(ROW)],
    "left_out": [],
}
MODEL = {
    "family": "paligemma",
    "threads": 1,
    "training": {
        "steps": 20,
        "batch": 16,
        "seconds": {"detmodes": 4.0, "Trainer": 5.0},
        "ratios": {"detmodes": 1.0, "Trainer": 1.25},
        "difference": 1e-6,
    },
    "sampling": {
        "images": 16,
        "samples": 8,
        "tokens": 32,
        "seconds": {"detmodes": 2.0, "generate": 4.0},
        "ratios": {"detmodes": 1.0, "generate": 2.0},
        "same": 16,
    },
}


@pytest.fixture(scope="module", params=["lvis", "coco"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedFiles:
    protocol: Protocol = request.param
    shape = DetectionSetSize(30, 20, 80)
    made = generate(tmp_path_factory.mktemp("set"), shape, "coco" if protocol == "coco" else "lvis", 0, ("json",))
    return EvaluatedFiles(made["annotations"], made["json"], protocol)


def test_every_package_computes_our_ap(files: EvaluatedFiles) -> None:
    """The scripts are those that are timed."""
    tools = scoring.installed(scoring.TOOLS[files.protocol])
    assert len(tools) == (4 if find_spec("faster_coco_eval") else 3)
    aps = {tool: run_once(script, files).ap for tool, script in tools.items()}
    assert aps == {tool: pytest.approx(aps["detmodes"], abs=1e-12) for tool in tools}
    assert 0.05 < aps["detmodes"] < 0.9


def test_transformers_trains_and_answers_as_ours() -> None:
    measured = training.measure(steps=3, images=2, tokens=6, repeats=1)
    trained, sampled = measured["training"], measured["sampling"]
    assert trained["difference"] < 1e-5
    assert trained["seconds"].keys() == trained["ratios"].keys() == {"detmodes", "Trainer"}
    assert trained["ratios"]["Trainer"] == trained["seconds"]["Trainer"] / trained["seconds"]["detmodes"]
    assert sampled["same"] == 2
    assert sampled["seconds"].keys() == {"detmodes", "generate"}
    assert json.loads(json.dumps(measured)) == measured  # it comes from another process
    assert "| sampling | generate |" in page.from_document({**DOCUMENT, "model": measured})


def test_generate_draws_from_the_whole_distribution() -> None:
    adapter, examples = training.new_model(2)
    drawn = training.generate(adapter, examples, 6, do_sample=True, num_return_sequences=training.SAMPLES)
    assert drawn.shape == (2 * training.SAMPLES, 6)
    assert len({tuple(row) for row in drawn.tolist()}) > training.SAMPLES


def test_the_command_prints_what_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.commands.speed.whole_commands.run_once", lambda *arguments: OURS)
    monkeypatch.setattr(page, "measure_model", lambda: MODEL)
    monkeypatch.setattr(
        "sys.argv", ["detmodes", "speed", "peers", "--size", "3", "--output", str(tmp_path / "peers.json")]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    document = json.loads((tmp_path / "peers.json").read_text())
    printed = capsys.readouterr().out
    assert printed == resolve(TABLES["peers"])(document) + "\n"
    tools = [(row["protocol"], row["tool"]) for row in document["scoring"]]
    assert tools == [
        (protocol, tool) for protocol, all_tools in scoring.TOOLS.items() for tool in scoring.installed(all_tools)
    ]
    assert "| lvis | hotcoco | 2.00 | 3.00 | 100 | 1.00 | 1.00 | 1.00 | 0.250000 | 0 |" in printed
    assert "| training | Trainer | 4.00 | 64.0 | 1.25 | losses of a step differ by at most 1e-06 |" in printed
    assert "| sampling | generate | | 32.0 | 2.00 | 16 of 16 greedy answers are the same |" in printed


def test_what_is_not_installed_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scoring, page):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert scoring.installed(scoring.TOOLS["coco"]).keys() == {"detmodes", "hotcoco", "pycocotools"}
    assert page.measure_model() is None
    document = {**DOCUMENT, "model": page.measure_model(), "left_out": page.find_left_out()}
    assert page.from_document(document).splitlines()[-1] == (
        "Left out: faster-coco-eval: not installed here, pip install 'detmodes[peers]'; "
        "training and sampling, by transformers: not installed here, pip install 'detmodes[train]'."
    )


@pytest.mark.parametrize(("difference", "told"), [(1e-12, []), (-1e-3, ["lvis: hotcoco gives an AP of 0.25, -0.001"])])
def test_another_ap_is_told(
    difference: float,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(scoring, "measure", lambda *arguments: iter([replace(ROW, difference=difference)]))
    monkeypatch.setattr(page, "measure_model", lambda: None)
    assert page.command(1, 0, None) == len(told)
    problems = [line for line in capsys.readouterr().err.splitlines() if "gives an AP" in line]
    assert problems == [f"detmodes: {line} beside ours" for line in told]


def test_an_output_without_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/a\.json: expected a place in an existing folder"):
        page.command(1, 0, tmp_path / "nowhere" / "a.json")
