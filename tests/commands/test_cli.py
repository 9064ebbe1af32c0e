"""The command line: what it prints, its exit codes, and one line per problem. In-process, through `main`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import detmodes
import harness
from harness import records
from harness.objectives import OBJECTIVES
from model_zoo import checkpoint
from model_zoo.flamingo import toy
from model_zoo.flamingo.toy import OpenFlamingo
from model_zoo.settings.open_flamingo import CONFIGS
from tests.commands.command_line import Done, Invoke, assert_one_problem, change
from tests.support import small

# ---- bad input ---------------------------------------------------------------------------------------------------


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
