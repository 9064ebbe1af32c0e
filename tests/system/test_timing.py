"""The measuring tool: turns, medians, ratios, and what a process of its own reports. No test depends on a speed."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from harness.system import timing


def test_tasks_take_turns_and_warm_up_is_not_timed() -> None:
    log: list[str] = []
    times = timing.interleaved({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, repeats=3, warm_up=2)
    assert log == ["a", "b"] * 5
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_seconds_are_those_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])

    def work(seconds: float) -> None:
        clock["now"] += seconds

    times = timing.interleaved({"slow": lambda: work(4.0), "fast": lambda: work(0.5)}, repeats=2, warm_up=0)
    assert times == {"slow": [4.0, 4.0], "fast": [0.5, 0.5]}


@pytest.mark.parametrize(("tasks", "repeats"), [({"a": lambda: None}, 0), ({}, 1)])
def test_nothing_to_measure_is_refused(tasks: dict[str, object], repeats: int) -> None:
    with pytest.raises(ValueError, match="at least one repeat and one task"):
        timing.interleaved(tasks, repeats)  # type: ignore[arg-type]


def test_ratios_are_taken_within_a_round() -> None:
    # Rounds: 2/1 = 2, 30/10 = 3, 8/2 = 4; their median is 3, while the medians' ratio is 8 / 2 = 4.
    times = {"base": [1.0, 10.0, 2.0], "other": [2.0, 30.0, 8.0]}
    assert timing.medians(times) == {"base": 2.0, "other": 8.0}
    assert timing.ratios(times, "base") == {"base": 1.0, "other": 3.0}


# ---- functions that `isolated` calls in the other process ---------------------------------------------------------


def describe(*arguments: object) -> dict[str, object]:
    print("this must not get into the answer")
    return {"pid": os.getpid(), "arguments": arguments, "threads": os.environ.get("RAYON_NUM_THREADS")}


def fill(megabytes: int) -> None:
    np.ones(megabytes * 2**17)


def wait(seconds: float) -> None:
    time.sleep(seconds)


def fail() -> None:
    raise KeyError("no such thing")


def test_isolated_runs_elsewhere_with_its_arguments() -> None:
    result = timing.isolated("tests.system.test_timing:describe", 3, "x", [1.5, None], threads=1)
    assert result.value["pid"] != os.getpid()
    assert result.value["arguments"] == [3, "x", [1.5, None]]
    assert result.value["threads"] == "1"
    assert result.seconds >= 0


def test_waiting_costs_time_but_no_processor() -> None:
    result = timing.isolated("tests.system.test_timing:wait", 0.5)
    assert result.seconds >= 0.5 > result.cpu_seconds


def test_memory_is_the_childs_and_not_the_parents() -> None:
    ballast = np.ones(400 * 2**17)  # 400 MiB here, which getrusage in the child would count
    little, much = (timing.isolated("tests.system.test_timing:fill", size).peak_rss_mib for size in (1, 301))
    assert ballast[0] == 1
    if sys.platform == "linux":
        assert timing.peak_rss() > 400
        assert little < 300
    assert 250 < much - little < 350


def test_what_goes_wrong_there_is_reported_here() -> None:
    with pytest.raises(RuntimeError, match=r"test_timing:fail failed with exit code 1: (?s:.*)KeyError: 'no such"):
        timing.isolated("tests.system.test_timing:fail")


def test_machine_says_what_it_is() -> None:
    machine = timing.machine()
    assert machine.keys() == {"processor", "cores", "memory_gib", "load", "python"}
    assert isinstance(machine["cores"], int)
    assert machine["cores"] >= 1
