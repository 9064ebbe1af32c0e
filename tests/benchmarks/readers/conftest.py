"""Fixtures of the tests of readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readers.annotations import Annotations
from tests.benchmarks.documents import loaded
from tests.benchmarks.readers.sample_files import TRUTH


@pytest.fixture(name="annotations")
def truth(tmp_path: Path) -> Annotations:
    return loaded(tmp_path, TRUTH)
