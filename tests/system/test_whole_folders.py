"""JSON as it was written, and folders that are whole or not there."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.errors import DataError
from harness.system import files


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    numbers = [0.1 + 0.2, 5e-324, -math.inf, 1.7976931348623157e308, -0.0, float(np.float32(0.1)), 2**70]
    files.write_json(tmp_path / "a.json", {"numbers": numbers, "text": "\u00e9\ud800"})
    document = files.read_json(tmp_path / "a.json")
    assert [repr(number) for number in document["numbers"]] == [repr(number) for number in numbers]
    files.write_json(tmp_path / "b.json", [math.nan])
    assert math.isnan(files.read_json(tmp_path / "b.json")[0])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"content": 1}', '{"content": 1, "sha256": "0"}', "\x00"])
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.json: (expected JSON with its digest|is not what was written)"):
        files.read_json(path)


def test_a_folder_takes_the_place_of_an_older_one_or_nothing_happens(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    for text in ("old", "new"):
        with files.whole_folder(place) as partial:
            (partial / text).write_text(text)
    with pytest.raises(FileNotFoundError), files.whole_folder(place) as partial:
        shutil.copy(tmp_path / "none", partial)
    assert [path.name for path in place.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [place]
