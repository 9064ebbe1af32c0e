"""A corrector of another package."""

from __future__ import annotations

from pathlib import Path

import pytest

PLUGIN = """
from harness.training.stages.corrections import Correction


def make(codec, targets):
    def corrector(example, parsed, errors, rng):
        question = f"What of {', '.join(errors.kinds)} can you put right?"
        answer = codec.encode([(codec.names_of[i.category_id][0], i.box) for i in example.instances], 64, 64)
        return [Correction(errors.kinds[0], (), answer, question, targets)]

    return corrector
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of somebody else's, as an installer leaves it."""
    (tmp_path / "my_corrector.py").write_text(PLUGIN)
    metadata = tmp_path / "my_corrector-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-corrector\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[detmodes.correctors]\nmine = my_corrector:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
