"""The command line: what it prints, its exit codes, and one line per problem. In-process, through `main`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from PIL import Image

import detmodes
import harness
from harness import records
from harness.commands.app import main
from harness.objectives import OBJECTIVES
from harness.records import Record
from harness.run.context import Context
from harness.run.executors import processes
from harness.system.interrupts import Interrupted
from model_zoo import checkpoint
from model_zoo.flamingo import toy
from model_zoo.flamingo.toy import OpenFlamingo
from model_zoo.settings.open_flamingo import CONFIGS
from tests.benchmarks.documents import annotation, category, document, image, write
from tests.run.test_runner import fail_in_training
from tests.support import fake_cells, small


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        return self.err.splitlines()


Invoke = Callable[..., Done]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Invoke:
    """Runs `detmodes ARGUMENTS` in an empty folder, on a wide screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["detmodes", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            code = end.code
        else:
            code = 0
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return Done(int(code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A suite file without anything to train but CE."""
    content = small.mini_suite().model_dump(mode="json", exclude_defaults=True)
    content["objectives"] = ["ce"]
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def change(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return path


# ---- run ---------------------------------------------------------------------------------------------------------


def test_a_run_prints_its_table_and_can_be_repeated(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert (done.code, done.err) == (0, "")
    for label in ("base", "ce", "oracle-uniform", "oracle-collapsed"):
        assert label in done.out
    assert len(list(Path("out/cells").iterdir())) == 4
    again = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert again == done
    report = invoke("report", "out")
    assert (report.code, report.out) == (0, done.out)


def test_progress_goes_to_stderr_and_only_selects(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--device", "cpu", "--only", "oracle-*", "--seeds", "7")
    assert (done.code, done.out) == (0, "")
    assert "finished  oracle-uniform-s0" in done.err
    cells = sorted(path.name.rsplit("-", 1)[0] for path in Path("runs/mini/cells").iterdir())
    assert cells == ["oracle-collapsed-s0", "oracle-uniform-s0"]


def test_a_failed_cell_is_told_and_exits_with_1(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_in_training(patch)
        monkeypatch.setattr("harness.commands.console.show_summary", lambda folder: print("report of", folder))
        done = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert done.code == 1
    assert done.problems == ["detmodes: cell open_flamingo-ce-s0 failed: RuntimeError: out of memory"]
    assert done.out == "report of out\n"  # what has finished is reported all the same
    assert invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet").code == 0


def test_a_dry_run_shows_cells_and_cost_and_writes_nothing(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--dry-run", "--device", "cpu", "--seeds", "0,1")
    assert done.code == 0
    assert "mini: 5 cells into runs/mini" in done.out
    for cell in ("open_flamingo-base-s0", "open_flamingo-ce-s1", "oracle-collapsed-s0"):
        assert cell in done.out
    assert "steps: 3," in done.out
    assert "train_images: 24" in done.out
    assert "minutes on cpu" in done.out
    assert "memory in GB" in done.out
    for phase in ("training", "generation", "scoring", "checkpoints"):
        assert phase in done.out
    assert not Path("runs").exists()


def test_a_run_uses_what_the_command_line_sets(invoke: Invoke, mini: Path) -> None:
    changes = ("--set", "train.steps=2", "--set", "seeds=[4]", "--set", "train.batch_size=2")
    done = invoke("run", mini, "--only", "*-ce-*", "--output", "out", "--device", "cpu", "--quiet", *changes)
    assert (done.code, done.err) == (0, "")
    (record,) = (Record.model_validate_json(path.read_text()) for path in Path("out/cells").glob("*/record.json"))
    assert record.cell.train is not None
    assert (record.cell.train["steps"], record.cell.train["batch_size"], record.cell.seed) == (2, 2, 4)
    suite = json.loads(Path("out/suite.json").read_text())
    assert (suite["train"]["steps"], suite["seeds"]) == (2, [4])
    assert "--set train.steps=2 --set &#x27;seeds=[4]&#x27;" in invoke("report", "out", "--format", "html").out
    assert_one_problem(invoke("run", mini, "--set", "train.stepp=2"), "'stepp', did you mean 'steps'")


def test_a_dry_run_for_another_device(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", mini, "--dry-run", "--on", "h100")
    assert done.code == 0
    assert "minutes on H100" in done.out
    assert "assumed:   40% of 989 TFLOP/s in bf16" in done.out
    assert_one_problem(invoke("run", mini, "--dry-run", "--on", "h999"), "--on: unknown device 'h999'")
    assert_one_problem(invoke("run", mini, "--on", "h100"), "--on: expected with --dry-run")


def test_a_dry_run_says_what_cannot_run(invoke: Invoke, mini: Path) -> None:
    change(
        mini, objectives=[{"name": "ce", "then": {"name": "nsft", "images": 4, "batch_size": 4, "corrector": "gpt"}}]
    )
    assert_one_problem(invoke("run", mini, "--dry-run", "--device", "cpu"), "then.corrector: unknown corrector 'gpt'")


@pytest.mark.parametrize(
    ("raised", "code", "name"),
    [
        (Interrupted(signal.SIGTERM), 143, "SIGTERM"),
        (Interrupted(signal.SIGINT), 130, "SIGINT"),
        (KeyboardInterrupt(), 130, "SIGINT"),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(
    invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, name: str
) -> None:
    def interrupted(*_: object) -> None:
        raise raised

    monkeypatch.setattr("harness.run.runner.run", interrupted)
    done = invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet")
    assert (done.code, done.out) == (code, "")
    (problem,) = done.problems
    assert name in problem
    assert "run the same command to go on" in problem


def test_snapshots_are_made_as_often_as_asked_for(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every: list[str | int] = []

    def noted(context: Context, *_: object) -> list[Record]:
        every.append(context.snapshot_every)
        return []

    monkeypatch.setattr("harness.run.runner.run", noted)
    for arguments in ((), ("--snapshot-every", "7")):
        invoke("run", mini, "--only", "*", "--device", "cpu", "--quiet", *arguments)
    assert every == ["10m", "7"]
    refused = invoke("run", mini, "--snapshot-every", "0")
    assert refused.code == 2
    assert (
        "--snapshot-every: expected a number of steps (50) or a time (90s, 10m, 1.5h), got '0'" in refused.problems[0]
    )


def test_jobs_run_the_same_command_in_workers(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the workers need to be part of this run, and what they say of its end."""
    started: list[tuple[list[str], int, list[str]]] = []

    def run(arguments: list[str], count: int, gpus: list[str], look: Callable[[], None]) -> list[processes.Ended]:
        started.append((arguments, count, gpus))
        look()  # before there is anything to see
        return [processes.Ended(1, 1, "detmodes: cell x failed: no\n"), processes.Ended(2, -9, "")]

    monkeypatch.setattr(processes, "run", run)
    done = invoke("run", mini, "--output", "out", "--device", "cpu", "--only", "*-ce-*", "--jobs", "2")
    assert (done.code, done.out) == (1, "")
    assert done.problems[0] == "detmodes: cell x failed: no"
    assert "worker 2 was ended by SIGKILL" in done.problems[1]
    ((arguments, count, gpus),) = started
    assert (count, gpus) == (2, [])
    given = ["run", str(mini), "--output", "out", "--device", "cpu", "--only", "*-ce-*", "--jobs", "2"]
    assert arguments[: len(given)] == given
    assert arguments[len(given) :] == [
        *("--jobs", "1", "--worker", arguments[-3]),
        *("--output", "out"),
    ]
    assert float(arguments[-3]) == pytest.approx(Path("out").stat().st_mtime, abs=60)


def test_status_and_clean_of_a_run(invoke: Invoke, mini: Path) -> None:
    assert invoke("run", mini, "--output", "out", "--device", "cpu", "--only", "oracle-*", "--quiet").code == 0
    done = invoke("status", "out")
    assert (done.code, done.err) == (0, "")
    rows = [[part.strip() for part in line.split("│")[1:3]] for line in done.out.splitlines() if "│" in line]
    assert rows == [
        ["open_flamingo-base-s0", "waiting"],
        ["open_flamingo-ce-s0", "waiting"],
        ["oracle-uniform-s0", "finished"],
        ["oracle-collapsed-s0", "finished"],
    ]
    assert done.out.splitlines()[-1] == "2 finished, 2 waiting"
    status = json.loads(invoke("status", "out", "--json").out)
    assert [(item["cell"], item["state"]) for item in status["cells"]] == [tuple(row) for row in rows]
    assert status["counts"] == {"finished": 2, "failed": 0, "running": 0, "interrupted": 0, "waiting": 2}

    assert invoke("clean", "out").out == "nothing to remove\n"
    left = Path("out/cells/.oracle-uniform-s7-01234567")
    left.mkdir()
    (left / "table").write_bytes(b"x" * 2**20)
    listed = invoke("clean", "out").out.splitlines()
    assert listed[0].split(maxsplit=3)[:3] == ["1.00", "MiB", str(left.relative_to("out"))]
    assert listed[-1] == "nothing removed; --yes removes it"
    assert left.exists()
    assert invoke("clean", "out", "--yes").out.splitlines()[-1] == "1.00 MiB removed"
    assert not left.exists()


# ---- bad input ---------------------------------------------------------------------------------------------------


def assert_one_problem(done: Done, *parts: str) -> None:
    assert done.code == 2
    assert done.out == ""
    (problem,) = done.problems
    assert problem.startswith("detmodes: ")
    for part in parts:
        assert part in problem


def test_unknown_names(invoke: Invoke, mini: Path) -> None:
    assert_one_problem(invoke("run", "quikstart"), "unknown suite 'quikstart', did you mean 'quickstart'?")
    assert_one_problem(invoke("run", "none.yaml"), "none.yaml: no such suite file")
    Path("mine.yaml").write_text("")
    assert_one_problem(invoke("run", "mine.yml"), "mine.yml: no such suite file, did you mean mine.yaml?")
    assert_one_problem(invoke("run", change(mini, models=["open_flamingoo"])), "unknown model 'open_flamingoo'")
    change(mini, models=["open_flamingo"])
    assert_one_problem(invoke("run", change(mini, objectives=["cee"])), "unknown objective 'cee', did you mean 'ce'?")
    assert_one_problem(invoke("predict", mini, "--model", "open_flamingo"), "mini.yaml: expected a readable image")
    for verb in ("report", "status", "clean"):
        assert_one_problem(invoke(verb, "nowhere"), "nowhere", "expected the output folder of a run")


def test_every_mistake_of_a_file_gets_a_line(invoke: Invoke, mini: Path) -> None:
    done = invoke("run", change(mini, objectives=["cee"], seeds=[], train={"lr": -1, "stepps": 3}))
    assert done.code == 2
    assert len(done.problems) == 4
    assert all(line.startswith(f"detmodes: {mini}: ") for line in done.problems)


def test_options_that_do_not_fit(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_problem(invoke("run", mini, "--device", "cuda"), "--device cuda: no CUDA device here; use --device cpu")
    assert_one_problem(invoke("run", mini, "--seeds", "a"), "--seeds: expected distinct integers")
    assert_one_problem(invoke("run", mini, "--device", "cpu", "--only", "x"), "--only 'x': matches none of")
    assert_one_problem(invoke("run", "photos", "--dry-run"), "give --data DIR")
    assert_one_problem(invoke("run", "photos", "--dry-run", "--data", "none"), "none: no such folder")
    assert invoke("run", mini, "--devise", "cpu").code == 2


def test_an_output_that_is_a_file(invoke: Invoke, mini: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for arguments in (("run", mini, "--output", taken), ("pretrain", "--output", taken)):
        done = invoke(*arguments, *(["--quiet"] if arguments[0] == "run" else []))
        assert_one_problem(done, str(taken))
    assert taken.read_text() == "mine"


def test_annotations_that_are_not_lvis(invoke: Invoke, tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 64}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(coco))
    assert_one_problem(invoke("run", "photos", "--dry-run", "--data", tmp_path), "train.json", "LVIS")


def test_a_base_with_the_wrong_digest(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mini.parent / "weights"
    folder.mkdir()
    path = folder / str(CONFIGS["tiny"].weights)
    small.fresh().save(path)
    (folder / checkpoint.DIGESTS).write_text(json.dumps({path.name: "f" * 64}))
    monkeypatch.setattr(toy, "WEIGHTS", folder)
    change(mini, models=["open_flamingo"])
    expected = ("expected sha256 " + "f" * 64, f"got {checkpoint.sha256(path)}")
    assert_one_problem(invoke("run", mini, "--device", "cpu"), *expected)
    Image.new("RGB", (64, 64)).save("black.png")
    assert_one_problem(invoke("predict", "black.png", "--model", "open_flamingo"), *expected)


# ---- list, predict, budget ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("models", ["open_flamingo", "2.1 M", "65 bins, y x y x", "oracle-uniform"]),
        ("benchmarks", ["shapes", "lvis", "benchmarks.lvis:Lvis"]),
        ("objectives", ["sed_sft", "settings: top_k, threshold, quantile,", "weight=1.0, mask=live", "2602.07464"]),
        ("suites", ["quickstart", "photos", "base", "sed_sft_w5_base"]),
    ],
)
def test_list(invoke: Invoke, kind: str, expected: list[str]) -> None:
    done = invoke("list", kind)
    assert (done.code, done.err) == (0, "")
    for part in expected:
        assert part in done.out


def test_every_objective_has_its_equation_in_one_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")  # narrower than the equations
    lines = [line.strip() for line in invoke("list", "objectives").out.splitlines()]
    for name, spec in OBJECTIVES.items():
        assert f"{name:<16} {spec.equation}" in lines
        assert spec.source in lines


def test_predict_prints_and_draws(invoke: Invoke, tmp_path: Path) -> None:
    path = small.benchmark().split("val")[0].path
    done = invoke("predict", path, "--model", "open_flamingo", "--samples", "2", "--draw", "drawn")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{path} (64x64)"
    assert [line.split(":")[0] for line in lines if line.startswith("  sample")] == ["  sample 1", "  sample 2"]
    (drawn,) = (tmp_path / "drawn").iterdir()
    assert lines[-1] == f"  drawn to drawn/{drawn.name}"
    with Image.open(drawn) as image:
        assert image.format == "PNG"


def test_predict_refuses_what_it_cannot_do(invoke: Invoke) -> None:
    path = small.benchmark().split("val")[0].path
    assert_one_problem(invoke("predict", "none.png", "--model", "open_flamingo"), "none.png: no such image")
    assert_one_problem(invoke("predict", path, "--model", "oracle-uniform"), "reads the ground truth")
    assert_one_problem(invoke("predict", path, "--model", "flamingo"), "unknown model 'flamingo'", "or the folder of a")


def test_budget_prints_the_held_out_loss(invoke: Invoke, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sampling anything."""
    monkeypatch.setattr(OpenFlamingo, "generate", lambda *_: pytest.fail("sampled"))
    done = invoke("budget", mini, "--steps", "3", "--every", "2", "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    heading, *lines = done.out.splitlines()
    assert heading == "step,heldout_nll"
    steps, losses = zip(*(line.split(",") for line in lines), strict=True)
    assert steps == ("0", "2", "3")
    assert all(2.0 < float(loss) < 7.0 for loss in losses)
    assert len(set(losses)) == 3


def test_budget_needs_held_out_images_and_a_model(invoke: Invoke, mini: Path) -> None:
    shapes = {"name": "shapes", **small.SETTINGS, "calibration_images": 0}
    assert_one_problem(invoke("budget", change(mini, benchmark=shapes)), "give it calibration_images")
    assert_one_problem(invoke("budget", change(mini, models=["oracle-uniform"])), "cannot be fine-tuned")


def test_as_a_program() -> None:
    """`python -m detmodes` is the same command."""
    command = [sys.executable, "-P", "-m", "detmodes", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: detmodes [OPTIONS]" in done.stdout
    for verb in ("run", "predict", "report", "publish", "budget", "pretrain", "list"):
        assert f" {verb} " in done.stdout


def test_a_fault_of_ours_ends_in_one_line_that_names_the_traceback(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("injected\nfor a test")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("harness.commands.models.listing.show", break_down)
    done = invoke("list", "suites")
    assert done.code == 70
    (line,) = done.problems
    assert "ZeroDivisionError: injected for a test; details: " in line
    details = Path(line.rpartition("details: ")[2]).read_text()
    assert "break_down" in details
    assert "Traceback" in details


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_an_output_that_cannot_be_written_is_told() -> None:
    command = [sys.executable, "-P", "-m", "detmodes", "list", "suites"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "detmodes: standard output: No space left on device; expected a place to read or write\n"
    assert done.returncode == 2


def test_an_argument_that_no_file_can_be_called_is_refused(invoke: Invoke) -> None:
    done = invoke("evaluate", "--annotations", "a\0b", "--detections", "c")
    assert_one_problem(done, r"detmodes: 'a\x00b': expected arguments without null characters")


def test_short_help_groups_the_verbs_by_job(invoke: Invoke) -> None:
    done = invoke("-h")
    assert done.code == 0
    panels = [line.strip("╭─╮ ") for line in done.out.splitlines() if line.startswith("╭")]
    assert panels == ["Options", "Run suites", "Results", "Score files", "Models", "Parts of your own", "Speed"]
    assert invoke("speed", "-h").code == invoke("run", "-h").code == 0


def test_the_version(invoke: Invoke) -> None:
    assert invoke("--version") == Done(0, f"detmodes {harness.__version__}\n", "")


def test_shell_completion_is_offered(invoke: Invoke) -> None:
    assert "--install-completion" in invoke("--help").out


def test_records_of_a_run_name_the_suite(invoke: Invoke, mini: Path) -> None:
    invoke("run", mini, "--output", "out", "--device", "cpu", "--quiet", "--only", "oracle-uniform-*")
    (folder,) = Path("out/cells").iterdir()
    assert records.read_record(folder).suite == "mini"


# ---- results and samples -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cells.write_run(tmp_path_factory.mktemp("simulated") / "run", fake_cells.suite())


@pytest.mark.parametrize(
    ("kind", "begin", "end"),
    [
        ("md", "### Detection", "\n"),
        ("latex", "\\documentclass", "\\end{document}\n"),
        ("csv", "model,row,step,figure", "\n"),
        ("html", "<!doctype html>", "</html>\n"),
    ],
)
def test_report_writes_the_format_to_stdout(invoke: Invoke, simulated: Path, kind: str, begin: str, end: str) -> None:
    done = invoke("report", simulated, "--format", kind)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(begin)
    assert done.out.endswith(end)


def test_report_shows_categories_and_draws(invoke: Invoke, simulated: Path) -> None:
    done = invoke("report", simulated, "--full", "--figures", "drawn")
    assert done.code == 0
    assert "Per category: AP" in done.out
    assert {path.suffix for path in Path("drawn").iterdir()} == {".png", ".svg"}
    assert {str(path) for path in Path("drawn").iterdir()} == set(done.err.split())


def test_publish_says_what_it_leaves_out(invoke: Invoke, simulated: Path) -> None:
    pictures = simulated / "gallery"
    pictures.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(pictures / "100.png")
    shown = {"image_id": 100, "file": "100.png", "width": 96, "height": 96, "instances": []}
    (pictures / "index.json").write_text(json.dumps({"pictures": [shown]}))
    done = invoke("publish", simulated, "--to", "published")
    assert done.code == 0
    assert "pictures" in done.out + done.err
    assert not Path("published/gallery").exists()
    assert Path("published/table.csv").is_file()


SAMPLED = [
    {"image_id": 1, "sample": sample, "mentions": [{"name": name, "bbox": [0, 0, 10, 10], "score": 0.5}]}
    for sample, name in enumerate(("sofa", "couch"))
]


def ground_truth(folder: Path) -> Path:
    objects = [annotation(1, 1, 1, 0, 0, 10, 10)]
    return write(folder / "gt.json", document([image(1)], objects, [category(1, "sofa", "sofa", "couch")]))


def sampled(folder: Path, *changes: dict[str, Any]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*SAMPLED, *changes]))
    return path


def test_measure_prints_and_writes(invoke: Invoke, tmp_path: Path) -> None:
    files = ("--output", "all.json", "--per-category", "c.csv", "--per-image", "i.csv", "--bootstrap", "10")
    done = invoke("measure", sampled(tmp_path), "--annotations", ground_truth(tmp_path), *files, "--quiet")
    assert (done.code, done.err) == (0, "")
    # Two samples of one object, two names of two: every pair differs, 1 / (1 - 1/2).
    (row,) = json.loads(Path("all.json").read_text())["temperatures"]
    assert row["figures"]["normalised_name_diversity"] == 2.0
    assert row["figures"]["recall"] == 1.0
    assert "recall" in done.out
    assert Path("c.csv").read_text().startswith("temperature,id,name")
    assert Path("i.csv").read_text().startswith("temperature,image_id")


def test_measure_refuses_in_one_line(invoke: Invoke, tmp_path: Path) -> None:
    truth = ground_truth(tmp_path)
    stranger = {"image_id": 7, "sample": 0, "mentions": []}
    assert_one_problem(invoke("measure", sampled(tmp_path, stranger), "--annotations", truth), "samples.jsonl", "7")
    third = {"image_id": 1, "sample": 1, "mentions": []}
    assert_one_problem(invoke("measure", sampled(tmp_path, third), "--annotations", truth), "samples.jsonl", "line 3")
    assert_one_problem(invoke("measure", "nowhere.jsonl", "--annotations", truth), "nowhere.jsonl")


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_in_a_verb_is_one_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.commands.models.listing.show", interrupt)
    done = invoke("list", "suites")
    assert (done.code, done.out, done.problems) == (130, "", ["detmodes: stopped by SIGINT"])


def test_ctrl_c_before_a_verb_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("harness.commands.app.main", interrupt)
    with pytest.raises(SystemExit) as end:
        detmodes.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "detmodes: stopped by SIGINT\n"
