"""What stops a cell is told in one line that says what to change; a loss that is no number never passes."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from harness.errors import ConfigError, DetmodesError
from harness.evaluation import generation
from harness.inference import confidence
from harness.sequence.targets import target
from harness.suite.schema import SampleSettings
from harness.suite.train_settings import Probe, Train
from harness.system import failures
from harness.system.failures import explain, require_finite
from harness.training import step
from harness.training.objective import Objective
from harness.training.rows import Row
from tests.support import small

# ---- memory ------------------------------------------------------------------------------------------------------

TOO_MUCH = 10**15


def allocate_tensor(*_: object) -> None:
    torch.empty(TOO_MUCH)


def allocate_array(*_: object) -> None:
    np.empty(TOO_MUCH)


def allocate_on_gpu(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")


def explained(function: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever the library raises
        function()
    line = explain(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("allocate", "told"),
    [
        (allocate_tensor, "DefaultCPUAllocator: can't allocate memory"),
        (allocate_array, "Unable to allocate"),
        (allocate_on_gpu, "(CUDA out of memory. Tried to allocate 2.00 GiB)"),
    ],
)
def test_out_of_memory_in_training(monkeypatch: pytest.MonkeyPatch, allocate: Callable[..., None], told: str) -> None:
    monkeypatch.setattr(step, "_logits", allocate)
    adapter, (example,) = small.fresh(), small.train_examples(1)
    rows = [Row(example, (adapter.tokens.end,))]
    objective = Objective("ce", {}, allocate)  # type: ignore[arg-type]
    line = explained(lambda: step.accumulate(adapter, rows, objective, 1, small.accelerator()))
    assert line.startswith("out of memory in training: lower train.micro_batch, then train.batch_size (")
    assert told in line
    assert "GPU 0" not in line


def test_out_of_memory_in_generation_and_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the two is told by the innermost of the modules that know: both are called in an evaluation."""
    adapter, examples = small.fresh(), small.train_examples(1)
    monkeypatch.setattr(adapter, "pixels", allocate_tensor)
    line = explained(lambda: generation.generate(adapter, examples, 1.0, SampleSettings(), 0))
    assert line.startswith("out of memory in generation: lower sample.batch_images, then sample.samples (")
    (example,) = examples
    tokens = target(example, adapter.codec, "canonical")
    parsed = adapter.codec.decode(tokens, example.width, example.height)
    line = explained(lambda: confidence.score(adapter, examples, [tokens], [parsed]))
    assert line.startswith("out of memory in scoring: lower sample.max_tokens (")


def test_out_of_memory_elsewhere_names_what_usually_helps() -> None:
    line = explained(allocate_array)
    assert line.startswith("out of memory in the cell: lower train.micro_batch or sample.batch_images (Unable to")


def test_every_setting_that_is_named_exists() -> None:
    settings = {"train": Train(), "sample": SampleSettings(), "train.probe": Probe(every=1)}
    text = " ".join(smaller for _, smaller in (*failures.SMALLER.values(), failures.ANYWHERE))
    named = [word.strip(",").rpartition(".") for word in text.split() if "." in word]
    assert len(named) >= 8
    for where, _, name in named:
        assert hasattr(settings[where], name)


# ---- disk --------------------------------------------------------------------------------------------------------


def write_table(path: Path) -> None:
    pd.DataFrame({"a": range(100_000)}).to_parquet(path)


def write_weights(path: Path) -> None:
    save_file({"a": torch.zeros(100_000)}, path)


def write_picture(path: Path) -> None:
    Image.effect_noise((500, 500), 90.0).save(path, format="PNG")


def write_text(path: Path) -> None:
    path.write_text("x" * 100_000)


@pytest.mark.parametrize("write", [write_table, write_weights, write_picture, write_text])
def test_every_library_that_writes_is_understood(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Under a limit on the size of files, which fails as a full disk does, but in this process alone."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            write(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    line = explain(caught.value, tmp_path)
    expected = f"a limit on the size of files is reached while writing into {tmp_path} ("
    assert line.startswith(expected)
    assert line.endswith(" MiB free there); make room, then run the same command again")


def test_a_full_disk_names_the_file_and_what_is_free(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "deep" / "record.json"))
    assert explain(full).startswith(f"the disk is full while writing {tmp_path}/deep/record.json (")
    assert " MiB free there" in explain(full)
    assert explain(OSError(errno.EDQUOT, "Quota")).startswith("the disk quota is used up; make room")


def test_anything_else_is_its_type_and_message() -> None:
    assert explain(ConfigError("a", "b")) == "ConfigError: a; b"
    assert explain(RuntimeError("two\n  lines")) == "RuntimeError: two lines"
    assert explain(FileNotFoundError(errno.ENOENT, "gone", "x")) == "FileNotFoundError: [Errno 2] gone: 'x'"


# ---- a loss that is no number --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "norm", "what"),
    [
        (math.nan, 1.0, "loss is nan"),
        (math.inf, math.nan, "loss is inf"),
        (2.0, math.inf, "gradient norm is inf"),
        (2.0, math.nan, "gradient norm is nan"),
    ],
)
def test_a_step_that_is_not_finite_is_told_with_its_images_and_the_last_good_values(
    loss: float, norm: float, what: str
) -> None:
    row = {"step": 7, "loss": loss, "grad_norm": norm}
    with pytest.raises(DetmodesError) as caught:
        require_finite(row, {"step": 6, "loss": 1.25, "grad_norm": 0.5, "seconds": 3.0}, [30, 4])
    last = "last finite: loss 1.25, gradient norm 0.5 at step 6"
    assert str(caught.value) == f"{what} at step 7 (images [30, 4]); lower train.lr; {last}"
    with pytest.raises(DetmodesError, match=r"lower train.lr; none before it was finite"):
        require_finite(row, None, [])


def test_a_finite_step_passes() -> None:
    require_finite({"step": 1, "loss": 1e30, "grad_norm": 0.0}, None, [1])
