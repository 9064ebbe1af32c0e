"""The verbs that need no model, in a process in which torch and the model libraries cannot be imported; and what the
others say there. The parts of `pip install` are held against setup.cfg."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.system.extras import ALONE, PARTS, install_command
from tests.support import fake_cells
from tests.support.processes.killing import Program

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
"""A sitecustomize module, which every Python that is started reads: `missing` are not installed there."""
LOADED = ("harness.commands.app", "harness.suite.load", "pandas", "pyarrow.parquet", "scipy.stats")
"""Imported once for all commands below."""
HINT = "detmodes: this needs torch, which is not installed here: pip install 'detmodes[train]'\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and with files to score; Python there has no training libraries."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "without").mkdir()
    (folder / "without" / "sitecustomize.py").write_text(WITHOUT.replace("{missing}", repr(set(PARTS))))
    fake_cells.write_run(folder / "run", fake_cells.suite(), images=12)
    (folder / "truth.json").write_text(json.dumps(truth()))
    (folder / "detections.json").write_text(json.dumps(detections()))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples()))
    return folder


def truth() -> dict[str, Any]:
    """Two images, a disc of 20 x 20 pixels in each."""
    return {
        "images": [{"id": image, "width": 64, "height": 64, "file_name": f"{image}.png"} for image in (1, 2)],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [
            {"id": image, "image_id": image, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
            for image in (1, 2)
        ],
    }


def detections() -> list[dict[str, Any]]:
    return [{"image_id": image, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.5} for image in (1, 2)]


def samples() -> list[dict[str, Any]]:
    """The greedy answer and two others about each image; all find the disc."""
    mention = {"name": "disc", "bbox": [4, 4, 20, 20], "score": 0.5}
    return [
        {"image_id": image, "sample": sample, "temperature": float(sample > 0), "mentions": [mention]}
        for image in (1, 2)
        for sample in range(3)
    ]


@pytest.fixture(scope="module")
def program(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    path = os.pathsep.join((str(place / "without"), str(ROOT)))
    environment = {"PYTHONPATH": path, "COLUMNS": "200", "XDG_CACHE_HOME": str(place)}
    started = Program(tmp_path_factory.mktemp("printed"), LOADED, place, environment)
    yield started
    started.close()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("list models", "pix2seq"),
        ("list benchmarks", "shapes"),
        ("list objectives", "sed_sft"),
        ("list suites", "quickstart"),
        ("status run", "finished"),
        ("clean run", "nothing to remove"),
        ("report run --format html --figures drawn", "<html"),
        ("power run", "H1"),
        ("publish run --to published", "published"),
        ("evaluate --annotations truth.json --detections detections.json --protocol coco --plots plots", "1.000"),
        ("evaluate --annotations truth.json --detections detections.json --protocol coco --no-diagnostics", "1.000"),
        ("evaluate --annotations truth.json --detections detections.json --protocol coco --bootstrap 10", "1.000"),
        ("measure samples.jsonl --annotations truth.json --protocol coco --bootstrap 10", "recall"),
    ],
)
def test_what_needs_no_model_runs_without_torch(command: str, expected: str, program: Program) -> None:
    done = program.start(*command.split())
    assert (done.status, done.stderr if "--figures" not in command else "") == (0, "")
    assert expected in done.stdout


def test_data_are_checked_without_torch(place: Path, program: Program) -> None:
    done = program.start("check-data", "coco", "--data", str(place))
    assert (done.status, done.stderr) == (1, "")
    assert "missing or invalid" in done.stdout


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (("--seeds", "x"), "--seeds: expected distinct integers from 0, of at most 64 bits, as in 0,1; got 'x'"),
        (("--snapshot-every", "often"), "--snapshot-every: expected a number of steps"),
        (("--output", "nowhere://runs"), "nowhere://runs: expected a URL that fsspec can open"),
        (("--jobs", "0"), "--jobs: expected a whole number of at least 1, or auto, got '0'"),
        (("--executor", "ray", "--jobs", "2"), "--jobs: a cluster runs as many cells as it has room for"),
    ],
)
def test_options_are_checked_without_torch(option: tuple[str, ...], problem: str, program: Program) -> None:
    done = program.start("run", "quickstart", *option)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(f"detmodes: {problem}")


def test_suites_are_checked_without_torch(place: Path, program: Program) -> None:
    (place / "wrong.yaml").write_text(
        "suite: wrong\n"
        "benchmark: shapes\n"
        "models:\n"
        "  - {name: pix2seq, width: 0}\n"
        "  - {name: open_flamingo, config: tinny}\n"
        "  - {name: open_flamingo_hf, language: toy-lama}\n"
        "  - {name: vlm, family: paligema}\n"
        "seeds: [0]\n"
        "train: {stepz: 3}\n"
    )
    done = program.start("run", "wrong.yaml")
    assert (done.status, done.stdout) == (2, "")
    for problem in (
        "'stepz', did you mean 'steps'",
        "pix2seq.width: expected an integer from 4 to 8192, got 0",
        "unknown open_flamingo.config 'tinny', did you mean 'tiny'",
        "unknown language 'toy-lama', did you mean 'toy-llama'",
        "unknown vlm.family 'paligema', did you mean 'paligemma'",
    ):
        assert problem in done.stderr
    assert len(done.stderr.splitlines()) == 5


@pytest.mark.parametrize(
    "command",
    [
        "run quickstart --output new",
        "run quickstart --output new --dry-run",
        "budget quickstart",
        "predict picture.png --model open_flamingo",
        "check adapter vlm",
        "check-adapter vlm",
        "pretrain --output new",
        "pairs run",
        "speed model",
    ],
)
def test_what_needs_a_model_says_what_to_install(command: str, place: Path, program: Program) -> None:
    done = program.start(*command.split())
    assert (done.status, done.stdout, done.stderr) == (2, "", HINT)
    assert not (place / "new").exists()


def test_python_says_what_to_install_too(place: Path) -> None:
    program = """
import detmodes
assert detmodes.evaluate("truth.json", "detections.json", "coco")["metrics"]["AP"] == 1
assert detmodes.measure("samples.jsonl", "truth.json", "coco")["temperatures"]
assert len(detmodes.load("run").verdicts) == 3
for use in (lambda: detmodes.loss("ce"), lambda: detmodes.run("quickstart", "new")):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    path = os.pathsep.join((str(place / "without"), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path}
    command = (sys.executable, "-c", program)
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", 2 * HINT.removeprefix("detmodes: "))
    assert not (place / "new").exists()


def test_parts_bring_what_the_setup_says() -> None:
    """Import names and the names of distributions differ in dashes, and for open_clip."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    brought = {extra: lines(setup["options.extras_require"][extra]) for extra in set(PARTS.values())}
    base = lines(setup["options"]["install_requires"])
    of_transformers = {"tokenizers", "torchvision"}  # which timm, open_clip and transformers ask for
    for package, extra in PARTS.items():
        name = {"open_clip": "open_clip_torch"}.get(package, package)
        assert (name in brought[extra]) != (package in of_transformers), package
        assert name not in base
    named = {{"open_clip": "open_clip_torch"}.get(package, package) for package in PARTS}
    assert brought["train"] <= named


def lines(text: str) -> set[str]:
    """The names of requirements, as they are imported."""
    return {re.split(r"[<>=]", line)[0].replace("-", "_") for line in text.split()}


def test_what_nobody_brings_is_no_part_of_ours() -> None:
    assert install_command("torch.nn") == "pip install 'detmodes[train]'"
    assert install_command("open_flamingo") == ALONE["open_flamingo"]
    assert install_command("no_such_library") is None
