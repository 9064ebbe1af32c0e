"""Inputs from practice, as they are kept beside the repository: what is right is said in their README."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.commands.app import main
from harness.images import read_rgb

Shared = Callable[[str], Path]


@pytest.mark.parametrize("case", ["annotation-id-0", "byte-order-mark"])
@pytest.mark.parametrize("diagnostics", ["--diagnostics", "--no-diagnostics"])
def test_files_from_other_tools_are_evaluated(
    tmp_path: Path, shared: Shared, monkeypatch: pytest.MonkeyPatch, case: str, diagnostics: str
) -> None:
    folder, output = shared(f"cases/{case}"), tmp_path / "metrics.json"
    files = ["--annotations", str(folder / "gt.json"), "--detections", str(folder / "dt.json")]
    options = ["--protocol", "coco", diagnostics, "--output", str(output), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["detmodes", "evaluate", *files, *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert json.loads(output.read_text())["metrics"]["AP"] == pytest.approx(0.9505, abs=5e-5)


@pytest.mark.parametrize("name", ["p16.pgm", "i16.png", "i32.tif"])
def test_grey_of_16_bits_is_the_same_gradient_however_it_is_stored(shared: Shared, name: str) -> None:
    pixels = np.asarray(read_rgb(shared(f"cases/grey-16-bit/{name}")))
    assert pixels.mean() == pytest.approx(127.5, abs=0.01)
    assert (pixels.min(), pixels.max()) == (0, 255)
