"""The log of a cell is a line for each row."""

from __future__ import annotations

import math
from pathlib import Path

from harness.records.log import Log


def test_the_log_is_a_line_for_each_row(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl")
    log.add("train", {"step": 1, "loss": 0.1 + 0.2, "grad_norm": math.inf})
    log.add("probe", {"step": 1, "recall": None})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == [
        '{"kind":"train","step":1,"loss":0.30000000000000004,"grad_norm":null}',
        '{"kind":"probe","step":1,"recall":null}',
    ]
    assert log.of("train") == [{"step": 1, "loss": 0.1 + 0.2, "grad_norm": math.inf}]
    log.restore(log.rows[:1])
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:1]
    assert log.of("probe") == []
