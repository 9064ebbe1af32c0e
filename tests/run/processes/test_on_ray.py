"""Cells on a real Ray cluster: the same records as without one, also when workers are killed or the run is stopped."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from harness import records
from harness.commands.run import launch, option_checks
from harness.errors import ConfigError
from harness.inference.device import Device
from harness.records import layout
from harness.run import runner
from harness.run.context import open_context
from harness.run.executors import ray_cluster
from harness.run.executors.ray_cluster import Lost, Order
from harness.run.output import mirror
from harness.suite import load
from harness.suite.cells import cells
from harness.suite.schema import Resources
from tests.run.mini_runs import same
from tests.run.processes.test_sharing import PATIENCE, nothing_left, start, training, wait_for
from tests.run.processes.test_sharing import cells as states
from tests.support import small

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""Ray leaves processes and files to the garbage collector."""
WITHOUT_RAY = "ray is not installed: pip install detmodes[ray]"
TRAINED = ("--only", "open_flamingo-ce-*", "--snapshot-every", "10")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two cells that train for some seconds, and others that take no time."""
    changes: dict[str, Any] = {
        "objectives": ["ce"],
        "seeds": [0, 1],
        "train": {"steps": 150, "batch_size": 4},
        "keep": "none",
    }
    path = tmp_path / "ray.yaml"
    path.write_text(yaml.safe_dump(small.mini_suite(**changes).model_dump(mode="json", exclude_defaults=True)))
    return path


@pytest.fixture(autouse=True)
def _collected_here() -> Iterator[None]:
    """And not in whatever test comes later."""
    yield
    gc.collect()


def expected(suite: Path, output: Path, only: str) -> list[dict[str, Any]]:
    """What an ordinary run gives."""
    made = runner.run(open_context(load.load(str(suite)), None, "cpu"), output, only)
    return [same(record) for record in made]


def records_of(output: Path) -> list[dict[str, Any]]:
    """Every record of a folder, in the suite's order; a cell has exactly one folder."""
    folders = [item.folder for item in states(output) if (item.folder / records.RECORD).is_file()]
    assert sorted(folders) == sorted((output / layout.CELLS).iterdir())
    return [same(records.read_record(folder)) for folder in folders]


# ---- on a cluster --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cell_on_a_cluster_gives_the_record_of_a_local_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cluster of this machine, a folder that the command line would give relative to where it is."""
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    suite, only = small.mini_suite(), "oracle-uniform-*"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.chdir(tmp_path)

    def run() -> int:
        return launch.on_cluster(
            launch.RunOptions(suite, Path("out"), None, "cpu", only, True, context={"snapshot_every": 7})
        )

    assert run() == 0
    context = open_context(suite, None, "cpu")
    (cell,) = runner.plan(context, tmp_path / "out", only)
    (local,) = runner.run(context, tmp_path / "local", only)
    assert same(records.read_record(cell.folder)) == same(local)
    assert len(states(tmp_path / "out")) == len(list(cells(suite)))  # the whole suite is announced
    monkeypatch.setattr(ray_cluster, "_installed", lambda: pytest.fail("all is done: no cluster is needed"))
    assert run() == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(suite: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    output = tmp_path / "out"
    run = start(suite, output, "--executor", "ray", *TRAINED)
    wait_for(lambda: any(item.progress and item.progress.done > 20 for item in training(output)))
    victim = training(output)[0]
    os.kill(int(str(victim.owner).split(":")[1]), signal.SIGKILL)
    _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, err
    assert Counter(line.split()[0] for line in err.splitlines() if re.fullmatch(r" *finished  \S+ *", line)) == {
        "finished": 2
    }
    assert records_of(output) == expected(suite, tmp_path / "local", TRAINED[1])
    assert nothing_left(output)


@pytest.mark.slow
def test_ctrl_c_stops_the_tasks_and_the_next_run_goes_on(suite: Path, tmp_path: Path) -> None:
    """What was computed is saved: each cell goes on from a checkpoint, on another executor too."""
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    output = tmp_path / "out"
    run = start(suite, output, "--executor", "ray", *TRAINED)
    wait_for(lambda: any(item.progress and item.progress.done > 20 for item in training(output)))
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out) == (130, ""), err
    assert err.splitlines()[-1].startswith("detmodes: stopped by SIGINT; what was computed is saved")
    assert "Traceback" not in err
    assert list((output / layout.LOCKS).iterdir()) == []
    assert any(layout.work(item.folder).is_dir() for item in states(output))
    assert not any((item.folder / records.RECORD).exists() for item in states(output) if item.state == "interrupted")
    after = expected(suite, output, TRAINED[1])
    assert after == expected(suite, tmp_path / "local", TRAINED[1])
    assert nothing_left(output)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster with two CPUs that others have started, and that asks for a token."""
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", "2"]
    options = ["--include-dashboard", "false", "--object-store-memory", str(ray_cluster.MEMORY), "--port", str(port)]
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "RAY_DISABLE_IMPORT_WARNING": "1"}
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log, start_new_session=True)
    wait_for(lambda: "Ray runtime started" in (tmp_path / "head.log").read_text() or head.poll() is not None)
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.wait(timeout=PATIENCE)


@pytest.mark.slow
def test_a_cluster_of_others_sends_to_a_url(cluster: str, suite: Path, tmp_path: Path) -> None:
    """Joined by its address; the results go to a URL, and the driver brings them and prints one table."""
    url, only = f"file://{tmp_path / 'there'}", "*"
    arguments = ["--output", url, "--device", "cpu", "--executor", "ray", "--ray-address", cluster]
    run = subprocess.run(
        [sys.executable, "-P", "-m", "detmodes", "run", str(suite), *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("the greedy answer's AP") == 1
    assert records_of(tmp_path / "there") == expected(suite, tmp_path / "local", only)
    assert records_of(mirror.local(url)) == records_of(tmp_path / "there")


# ---- what is sent, and what comes back -------------------------------------------------------------------------------


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    order = Order(suite=small.mini_suite().model_dump_json(), output=str(tmp_path), data=None, device="cpu")
    with pytest.raises(ConfigError, match=r"^--executor ray: expected the package ray; install detmodes\[ray\]$"):
        ray_cluster.run(order, [], Resources(), None, lambda ended: None)


def test_a_cluster_that_does_not_answer_is_one_line_at_once() -> None:
    """Ray would try for minutes, and then exit."""
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    order = Order(suite="{}", output="out", data=None, device="cpu")
    started = time.monotonic()
    message = rf"^--ray-address {address}: expected a Ray cluster that can be joined .*refused"
    with pytest.raises(ConfigError, match=message):
        ray_cluster.run(order, [], Resources(), address, lambda ended: None)
    assert time.monotonic() - started < ray_cluster.ANSWERS + 30


def test_a_task_is_a_run_of_one_cell(tmp_path: Path) -> None:
    """Two of eight are asked for by names that are no patterns; settings arrive, and the suite as JSON."""
    suite = small.mini_suite()
    order = Order(suite.model_dump_json(), str(tmp_path / "out"), None, "cpu", options={"snapshot_every": 7})
    planned = runner.plan(open_context(suite, None, "cpu"), tmp_path / "out", "oracle-*")
    for item in planned:
        assert ray_cluster.compute(order, item.cell.id, item.folder.name) == ""
    assert {path.name for path in (tmp_path / "out" / layout.CELLS).iterdir()} == {p.folder.name for p in planned}


def test_bad_input_on_a_worker_is_told_and_not_raised(tmp_path: Path) -> None:
    """As when a data folder is missing there."""
    suite = small.mini_suite()
    order = Order(suite.model_dump_json(), str(tmp_path), None, "cuda")
    assert ray_cluster.compute(order, "x", "x").startswith("--device cuda: no CUDA device here")


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0, "cpu"), ("cpu", 0, "cpu"), ("auto", 1, "auto"), ("cuda", 0.5, "cuda"), ("cpu", 1, "cpu")],
)
def test_a_cell_computes_on_what_it_was_given(device: Device, gpus: float, expected: Device) -> None:
    assert ray_cluster.device_of(device, Resources(gpus=gpus)) == expected


def test_cuda_without_gpus_is_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"expected `resources: \{gpus: 1\}` in the suite, got 0"):
        ray_cluster.device_of("cuda", Resources())


def test_what_a_lost_cell_says() -> None:
    assert str(Lost("ce-s0", "no data folder", bad_input=True)) == "no data folder"
    assert str(Lost("ce-s0", "Ray gave it up", bad_input=False)) == "cell ce-s0 has no record: Ray gave it up"


@pytest.mark.parametrize(
    ("executor", "address", "jobs", "message"),
    [
        ("local", "127.0.0.1:6379", 1, "--ray-address: expected with --executor ray"),
        ("ray", None, 2, "--jobs: a cluster runs as many cells as it has room for; leave it out"),
    ],
)
def test_options_of_another_executor_are_bad_input(
    executor: Literal["local", "ray"], address: str | None, jobs: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        option_checks.require_executor(executor, address, jobs)


# ---- resources -------------------------------------------------------------------------------------------------------


def test_resources_are_no_part_of_a_cell(tmp_path: Path) -> None:
    plans = [
        runner.plan(open_context(small.mini_suite(resources=resources), None, "cpu"), tmp_path)
        for resources in ({}, {"cpus": 4, "gpus": 0.25})
    ]
    assert [item.digest for item in plans[0]] == [item.digest for item in plans[1]]


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"cpus": 0}, "resources.cpus: Input should be greater than or equal to 1, got 0"),
        ({"gpus": 1.5}, "resources.gpus: expected a whole number of GPUs or a share of one, got 1.5"),
        ({"gpu": 1}, "unknown key resources.gpu: 'gpu', did you mean 'gpus'? available: cpus, gpus"),
    ],
)
def test_wrong_resources_are_one_line(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        small.mini_suite(resources=resources)
    assert [problem.removeprefix("mini.yaml: ") for problem in raised.value.problems] == [message]
