"""Checkpoints hold everything, and are never taken for what they are not."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import DataError
from harness.records.log import Log
from harness.run.interval import CheckpointInterval
from harness.run.resume import CellCheckpointer
from harness.suite.train_settings import Train
from harness.system import files, interrupts
from harness.system.interrupts import Interrupted, Interrupts
from harness.training import checkpoints
from harness.training.checkpoints import Checkpoint, TrainingState, random_numbers_kept
from harness.training.loop import Hooks
from harness.training.objective import prepare
from tests.support import small


def state_of(seed: int = 0, width: int = 3) -> TrainingState:
    """A model with a frozen part and buffers that training changes, one of them not persistent."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    model[2].requires_grad_(False)
    model.register_buffer("counter", torch.zeros((), dtype=torch.bfloat16), persistent=False)
    return TrainingState(
        model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    )


def step(state: TrainingState) -> None:
    """Inputs from torch's global generator, as dropout would use it."""
    state.model(torch.randn(4, 2)).square().sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.model.get_buffer("counter").add_(1)
    state.step += 1
    state.seconds += 0.1
    state.last = {"step": state.step, "loss": math.inf, "grad_norm": 0.1 + 0.2}
    state.selections[7, (state.step, 5)] = torch.rand(3) < 0.5


def everything(state: TrainingState) -> tuple[Any, ...]:
    """All of it as values that compare exactly."""
    tensors = {**state.model.state_dict(), "counter": state.model.get_buffer("counter")}
    moments = [
        (i, name, t.tolist())
        for i, moments in state.optimizer.state_dict()["state"].items()
        for name, t in moments.items()
    ]
    selections = {key: selection.tolist() for key, selection in state.selections.items()}
    return {n: t.tolist() for n, t in tensors.items()}, moments, selections, state.step, state.seconds, state.last


def draws() -> tuple[float, ...]:
    """The next number of each global generator; a normal one also of what NumPy and Python keep in reserve."""
    return random.random(), random.gauss(0, 1), np.random.normal(), np.random.random(), float(torch.rand(()))


def newest(folder: Path, *warnings: str, settings: str = "cell") -> Checkpoint | None:
    """The newest usable one, with these warnings."""
    messages: list[str] = []
    checkpoint = checkpoints.newest(folder, settings, lambda checkpoint: None, messages.append)
    assert len(messages) == len(warnings)
    for text, expected in zip(messages, warnings, strict=True):
        assert expected in text
    return checkpoint


def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    state = state_of()
    random.seed(1)
    np.random.seed(1)
    step(state)
    random.gauss(0, 1), np.random.normal()  # the second of each pair is in reserve
    checkpoints.write(tmp_path, state, "cell", {"log": [1]})
    snapped, next_numbers = everything(state), draws()
    step(state)
    end = everything(state)

    other = state_of(seed=5)
    assert everything(other)[0] != snapped[0]
    checkpoint = newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.content["extra"] == {"log": [1]}
    frozen = state.model.get_submodule("2").state_dict()
    other.model.get_submodule("2").load_state_dict(frozen)  # frozen: the base's, which any process has
    checkpoints.restore(checkpoint, other, small.accelerator())
    assert everything(other) == snapped
    assert draws() == next_numbers
    step(other)
    assert everything(other) == end


def test_frozen_parameters_are_not_written(tmp_path: Path) -> None:
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    names = {name for name in written.content["tensors"] if name.startswith("model/")}
    buffers = {f"model/{name}" for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked", "counter")}
    assert names == {"model/0.weight", "model/0.bias", "model/1.weight", "model/1.bias", *buffers}


def test_nothing_in_it_can_be_code(tmp_path: Path) -> None:
    """JSON and safetensors, whose header is JSON too."""
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    assert {path.name for path in written.folder.iterdir()} == {checkpoints.TENSORS, checkpoints.STATE}
    json.loads((written.folder / checkpoints.STATE).read_text())
    content = (written.folder / checkpoints.TENSORS).read_bytes()
    json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    state = state_of()
    for _ in range(4):
        step(state)
        checkpoints.write(tmp_path, state, "cell", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_the_older_one_goes_only_when_the_newer_one_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three = three_checkpoints(tmp_path)

    def badly(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        cut(path)

    monkeypatch.setattr(checkpoints, "save_file", badly)
    step(three)
    with pytest.raises(DataError, match=r"step-00000004/tensors\.safetensors: expected the tensors"):
        checkpoints.write(tmp_path, three, "cell", {})
    checkpoint = newest(tmp_path, "checkpoint step-00000004 is of no use and was removed")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_what_cannot_be_written_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    state = three_checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints, "save_file", full)
    step(state)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write(tmp_path, state, "cell", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


# ---- damage --------------------------------------------------------------------------------------------------------


def three_checkpoints(folder: Path) -> TrainingState:
    state = state_of()
    for _ in range(3):
        step(state)
        checkpoints.write(folder, state, "cell", {})
    return state


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def reword(path: Path) -> None:
    """Still JSON, but of another value."""
    path.write_text(path.read_text().replace('"step": 3', '"step": 2', 1))


def reshape(path: Path) -> None:
    """The same bytes under another shape."""
    path.write_bytes(path.read_bytes().replace(b'"shape":[3,2]', b'"shape":[2,3]'))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut, checkpoints.TENSORS),
    (flip, checkpoints.TENSORS),
    (reshape, checkpoints.TENSORS),
    (Path.unlink, checkpoints.TENSORS),
    (replace_by_folder, checkpoints.TENSORS),
    (cut, checkpoints.STATE),
    (reword, checkpoints.STATE),
    (Path.unlink, checkpoints.STATE),
    (replace_by_folder, checkpoints.STATE),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGE, ids=[f"{d.__name__}-{n}" for d, n in DAMAGE])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    three_checkpoints(tmp_path)
    place = tmp_path / "step-00000003" / name
    before = place.read_bytes()
    damage(place)
    assert not place.is_file() or place.read_bytes() != before
    checkpoint = newest(tmp_path, f"checkpoint step-00000003 is of no use and was removed: {place}")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2
    assert not place.parent.exists()


def test_tensors_exchanged_for_older_ones_are_noticed(tmp_path: Path) -> None:
    three_checkpoints(tmp_path)
    shutil.copy(tmp_path / "step-00000002" / checkpoints.TENSORS, tmp_path / "step-00000003" / checkpoints.TENSORS)
    checkpoint = newest(tmp_path, "missing, or not what was written")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2


def test_one_of_other_settings_or_format_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_checkpoints(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert newest(tmp_path, *["settings: expected other cell, got cell"] * 2, settings="other cell") is None
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    assert newest(tmp_path / "copy", *["format: expected 2, got 1"] * 2) is None


def test_what_the_caller_cannot_use_is_passed_over(tmp_path: Path) -> None:
    three_checkpoints(tmp_path)

    def usable(checkpoint: Checkpoint) -> None:
        if checkpoint.content["step"] == 3:
            raise DataError("its evaluation is gone")

    checkpoint = checkpoints.newest(tmp_path, "cell", usable, lambda message: None)
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2


def test_another_model_is_left_alone(tmp_path: Path) -> None:
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    other = TrainingState(nn.Linear(2, 3), torch.optim.AdamW(nn.Linear(2, 3).parameters()))
    with pytest.raises(DataError, match="is of one side only"):
        checkpoints.restore(written, other, small.accelerator())


def test_weights_have_one_digest_whatever_the_optimizer(tmp_path: Path) -> None:
    state = state_of()
    first = checkpoints.write(tmp_path, state, "cell", {}).weights
    torch.rand(3)
    state.seconds, state.step = 5.0, 1
    assert checkpoints.write(tmp_path, state, "cell", {"log": []}).weights == first
    step(state)
    assert checkpoints.write(tmp_path, state, "cell", {}).weights != first


def test_looking_does_not_change_the_random_numbers() -> None:
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    with random_numbers_kept(torch.device("cpu")):
        inside = draws()
    assert draws() == inside


# ---- JSON and folders that are whole -----------------------------------------------------------------------------


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


# ---- the log -------------------------------------------------------------------------------------------------------


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


# ---- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_waits_and_the_second_acts(number: signal.Signals, code: int) -> None:
    def acts(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, acts)
    try:
        with interrupts.deferred() as caught:
            caught.check()
            signal.raise_signal(number)
            assert caught.pending == number
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            with pytest.raises(Interrupted, match=f"stopped by {number.name}; what was computed is saved") as stopped:
                caught.check()
        assert stopped.value.exit_code == code
        assert not isinstance(stopped.value, Exception)
        with interrupts.deferred():
            pass
        assert signal.getsignal(number) is acts
    finally:
        signal.signal(number, before)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.deferred() as caught:
            signal.raise_signal(signal.SIGINT)
        assert caught.pending is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_handlers() -> None:
    before, handlers = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with interrupts.deferred() as caught:
            handlers.append((caught.pending, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(None, before)]


def test_json_nested_without_end_is_damage(tmp_path: Path) -> None:
    three_checkpoints(tmp_path)
    (tmp_path / "step-00000003" / checkpoints.STATE).write_text('{"content": ' + "[" * 200_000)
    checkpoint = newest(tmp_path, "checkpoint step-00000003 is of no use and was removed: ")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2


# ---- while training goes on -----------------------------------------------------------------------------------------


def test_each_tensor_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    original = checkpoints.digest

    def counting(tensor: torch.Tensor) -> str:
        hashed.append(1)
        return original(tensor)

    monkeypatch.setattr(checkpoints, "digest", counting)
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    assert len(hashed) == len(written.content["tensors"])


def test_a_copy_is_of_the_state_as_it_was(tmp_path: Path) -> None:
    """Parameters and moments are changed in place: nothing of the copy may be shared with them."""
    state = state_of()
    step(state)
    (tmp_path / "at once").mkdir()
    (tmp_path / "later").mkdir()
    expected = checkpoints.write(tmp_path / "at once", state, "cell", {}).content["tensors"]
    copy = checkpoints.copy_of(state, "cell", {})
    step(state)
    assert checkpoints.write_copy(tmp_path / "later", copy).content["tensors"] == expected


class Watched:
    """Training of four steps with a checkpointer whose clock shows 100 s more after each step."""

    def __init__(self, folder: Path, every: str) -> None:
        self.now, self.listings = 0.0, list[tuple[int, list[str]]]()
        self.checkpointer = CellCheckpointer(
            folder,
            Log(),
            "cell",
            CheckpointInterval.of(every),
            Interrupts(),
            small.accelerator(),
            clock=lambda: self.now,
        )
        self._folder = folder

    def train(self) -> None:
        adapter, plan = small.fresh(), Train(steps=4, batch_size=2)
        ready = prepare("ce", {}, adapter, (), plan, 0)
        small.fine_tune(adapter, ready, plan, hooks=Hooks(progress=self._progress), checkpointer=self.checkpointer)

    def _progress(self, step: int, loss: float) -> None:
        del loss
        self.now += 100.0
        self.listings.append((step, sorted(path.name for path in self._folder.glob("step-*"))))


def test_checkpoints_come_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 200 s where a step takes 100 s, and before the evaluation of the last step."""
    copied: list[int] = []
    original = checkpoints.copy_of

    def noted(state: TrainingState, *arguments: Any) -> checkpoints.StateCopy:
        copied.append(state.step)
        return original(state, *arguments)

    monkeypatch.setattr(checkpoints, "copy_of", noted)
    Watched(tmp_path / "often", "200s").train()
    assert copied == [2, 4]
    copied.clear()
    Watched(tmp_path / "seldom", "10m").train()
    assert copied == [4]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing of step 2 is held up until step 3 has been made."""
    watched, made = Watched(tmp_path / "resume", "200s"), threading.Event()
    original = checkpoints.write_copy

    def slow(folder: Path, copy: checkpoints.StateCopy, check: Callable[[], None]) -> Checkpoint:
        if copy.step == 2:
            assert made.wait(60)
        return original(folder, copy, check)

    def progress(step: int, loss: float) -> None:
        Watched._progress(watched, step, loss)
        if step == 3:
            made.set()

    monkeypatch.setattr(checkpoints, "write_copy", slow)
    monkeypatch.setattr(watched, "_progress", progress)
    watched.train()
    assert watched.listings[2] == (3, [])
    assert sorted(path.name for path in (tmp_path / "resume").iterdir()) == ["step-00000002", "step-00000004"]


def test_an_error_of_writing_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Checkpoint:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_copy", full)
    with pytest.raises(OSError, match="No space"):
        Watched(tmp_path / "resume", "100s").train()
