"""Saves and restores training after a step: everything that later steps depend on.

    FOLDER/step-00000050/tensors.safetensors   what training changes: parameters, buffers, optimizer, random numbers
                         state.json            everything else, and a digest of each tensor

No pickle is written or read, so loading runs no code. The two newest checkpoints are kept; the older one is removed
only after a newer one can be read. A checkpoint is written from a copy, so that training may go on meanwhile.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import DataError
from harness.system import files, ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

FORMAT = 1
"""Version of checkpoints. Raise it when their meaning changes: older ones are then not used."""
TENSORS, STATE = "tensors.safetensors", "state.json"


@dataclass
class TrainingState:
    """Everything that training changes. The learning rate and the data are functions of the step.

    selections: what the frozen base selected, by image and sequence (harness.training.objective.Objective); seconds: of
    training so far; waiting: those of them in which the model waited for its data; last: `step`, `loss` and `grad_norm`
    of the newest step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    selections: dict[tuple[int, tuple[int, ...]], Tensor] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    last: dict[str, float] | None = None
    resumes: bool = True
    """Whether it can be saved and restored (harness.training.engines.data_parallel)."""
    reference: nn.Module | None = None
    """The model as it was when this stage began, if the stage needs it; it is not trained."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """The mean of the weights so far (harness.training.average), by the names of the parameters; empty without one."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class Checkpoint(NamedTuple):
    """A checkpoint on disk. content: that of state.json; `extra` in it belongs to the caller."""

    folder: Path
    content: dict[str, Any]

    @property
    def weights(self) -> str:
        """Returns the digest of the tensors of the model that is evaluated."""
        entries = sorted(item for item in self.content["tensors"].items() if item[0].startswith(("model/", "average/")))
        return sha256(repr(entries).encode()).hexdigest()


class StateCopy(NamedTuple):
    """A copy of everything that a checkpoint will hold, so that training may go on while it is written. content: that
    of state.json, without the digests."""

    step: int
    tensors: dict[str, Tensor]
    content: dict[str, Any]


def copy_of(state: TrainingState, settings: str, extra: Mapping[str, Any]) -> StateCopy:
    """Copies the state to the CPU. settings: identify what is trained, so that a checkpoint of something else is not
    used. extra: data of the caller, stored as JSON; it must not change any more."""
    content = {
        "format": FORMAT,
        "settings": settings,
        "step": state.step,
        "seconds": state.seconds,
        "waiting": state.waiting,
        "last": state.last,
        "random": {"python": random.getstate(), "numpy": _numpy_state()},
        "selections": [[image, tokens, len(selected)] for (image, tokens), selected in state.selections.items()],
        "extra": extra,
    }
    return StateCopy(state.step, _tensors(state), content)


def write_copy(folder: Path, copy: StateCopy, check: Callable[[], None] = lambda: None) -> Checkpoint:
    """Writes a checkpoint into `folder`; once it can be read, all but the two newest are removed.

    Each tensor is hashed once, here; `read` compares. check: called before anything is replaced or removed; raises
    where that is not allowed. DataError if the checkpoint cannot be read; an error of the file system leaves the
    earlier checkpoints as they are.
    """
    content = {**copy.content, "tensors": {name: digest(tensor) for name, tensor in copy.tensors.items()}}
    place = folder / f"step-{copy.step:08}"
    with files.whole_folder(place, check) as partial:
        save_file(copy.tensors, partial / TENSORS)
        files.give_usual_permissions(partial / TENSORS)
        files.write_json(partial / STATE, content)
    _require_readable(place / TENSORS, copy.tensors)
    check()
    _remove_all_but_one_before(place)
    return Checkpoint(place, content)


def write(
    folder: Path,
    state: TrainingState,
    settings: str,
    extra: Mapping[str, Any],
    check: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Copies the state and writes it at once (see `copy_of` and `write_copy`)."""
    return write_copy(folder, copy_of(state, settings, extra), check)


def _require_readable(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises DataError if the file is truncated, or does not list these tensors."""
    with _opened(path) as file:
        listed = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    if listed != {name: list(tensor.shape) for name, tensor in tensors.items()}:
        raise DataError(f"{path}: expected the tensors of a checkpoint, got others than were written")


def _remove_all_but_one_before(place: Path) -> None:
    earlier = [other for other in _folders(place.parent) if other.name < place.name]
    for other in earlier[:-1]:
        shutil.rmtree(other)


def newest(
    folder: Path, settings: str, usable: Callable[[Checkpoint], object], warn: Callable[[str], None]
) -> Checkpoint | None:
    """Returns the newest checkpoint that is complete, of these settings and `usable` (which raises DataError if not);
    None if there is none. Newer ones are removed with a warning."""
    for place in reversed(_folders(folder)):
        try:
            checkpoint = read(place, settings)
            usable(checkpoint)
        except DataError as error:
            warn(f"checkpoint {place.name} is of no use and was removed: {error}")
            shutil.rmtree(place, ignore_errors=True)
        else:
            return checkpoint
    return None


def read(place: Path, settings: str) -> Checkpoint:
    """Reads a checkpoint. Raises DataError (one line: file, expectation) if anything differs from what was written."""
    content = files.read_json(place / STATE)
    for key, expected in (("format", FORMAT), ("settings", settings)):
        if content.get(key) != expected:
            raise DataError(f"{place / STATE}: {key}: expected {expected}, got {content.get(key)}")
    with _opened(place / TENSORS) as file:
        digests = {name: digest(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    wrong = sorted(set(digests.items()) ^ set(content["tensors"].items()))
    if wrong:
        raise DataError(f"{place / TENSORS}: {wrong[0][0]}: missing, or not what was written")
    return Checkpoint(place, content)


def restore(checkpoint: Checkpoint, state: TrainingState, accelerator: Accelerator) -> None:
    """Restores everything, including the random numbers. DataError, before anything is changed, if the model is
    another one. Of several processes only rank 0 reads the file: all continue from the same state, with the same
    random numbers."""
    content = checkpoint.content
    parts = _trained(state.model)
    with _shared(checkpoint, accelerator) as tensor:
        _require_fit(checkpoint, parts)
        with torch.no_grad():
            for name, part in (parts | _beside_model(state)).items():
                part.copy_(_placed(tensor(name), part))
        _restore_optimizer(state.optimizer, {n: tensor(n) for n in content["tensors"] if _of_optimizer(n)})
        _restore_random(state, content, tensor)
        flat = tensor("selections").to(state.device)
    selected = torch.split(flat, [length for *_, length in content["selections"]])
    keys = [(image, tuple(tokens)) for image, tokens, _ in content["selections"]]
    state.selections.update(zip(keys, selected, strict=True))
    state.step, state.seconds, state.last = content["step"], content["seconds"], content["last"]
    state.waiting = content.get("waiting", 0.0)  # not in what earlier code wrote


def digest(tensor: Tensor) -> str:
    """Computes the sha256 of type, shape and bytes."""
    data = tensor.detach().cpu().contiguous()
    hasher = sha256(f"{data.dtype} {tuple(data.shape)} ".encode())
    hasher.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _folders(folder: Path) -> list[Path]:
    """Lists the folders of checkpoints, ascending by step."""
    return sorted(folder.glob("step-*"))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: expected the tensors of a checkpoint, got: {error}") from None


@contextmanager
def _shared(checkpoint: Checkpoint, accelerator: Accelerator) -> Iterator[Callable[[str], Tensor]]:
    """Yields a function that returns tensors by name; all ranks must ask for the same ones in the same order."""
    if not accelerator.is_main_process:
        yield lambda name: ranks.same_tensor(accelerator, None)
        return
    with _opened(checkpoint.folder / TENSORS) as file:
        yield lambda name: ranks.same_tensor(accelerator, file.get_tensor(name))


# ---- what there is to save -----------------------------------------------------------------------------------------


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    """Copies all tensors to the CPU."""
    tensors = {name: _whole(tensor) for name, tensor in _changed(state).items()} | _beside_model(state)
    tensors["random/torch"] = torch.get_rng_state()
    if state.device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(state.device)
    empty = torch.zeros(0, dtype=torch.bool)
    tensors["selections"] = torch.cat([empty.to(state.device), *state.selections.values()])
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _changed(state: TrainingState) -> dict[str, Tensor]:
    """Returns the tensors that a step changes; of split ones (harness.training.engines.sharding) each rank has a
    part."""
    return _trained(state.model) | {
        f"optimizer/{index}/{name}": value
        for index, of_parameter in state.optimizer.state_dict()["state"].items()
        for name, value in of_parameter.items()
    }


def take_part(state: TrainingState) -> None:
    """Takes part, on the other ranks, while rank 0 writes a checkpoint: all ranks join split tensors."""
    for tensor in _changed(state).values():
        _whole(tensor)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if _is_split(tensor) else tensor


def _placed(whole: Tensor, like: Tensor) -> Tensor:
    """Returns the part of a whole tensor that this rank has of `like`."""
    if not _is_split(like):
        return whole
    from torch.distributed.tensor import distribute_tensor  # only then: it takes seconds

    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _is_split(tensor: Tensor) -> TypeGuard[DTensor]:
    """Tells whether each rank has only a part of it."""
    return hasattr(tensor, "full_tensor")


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters with a gradient and all buffers, without aliases. Frozen parameters are those of the base."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {f"model/{name}": tensor for name, tensor in {**parameters, **dict(model.named_buffers())}.items()}


def _beside_model(state: TrainingState) -> dict[str, Tensor]:
    """Returns the mean of the weights, and the part of the reference that training may have changed before."""
    mean = {f"average/{name}": tensor for name, tensor in state.average.items()}
    if state.reference is None:
        return mean
    reference = dict(state.reference.named_parameters()) | dict(state.reference.named_buffers())
    names = (name.removeprefix("model/") for name in _trained(state.model))
    return mean | {f"reference/{name}": reference[name] for name in names}


def _require_fit(checkpoint: Checkpoint, parts: Mapping[str, Tensor]) -> None:
    stored = {name for name in checkpoint.content["tensors"] if name.startswith("model/")}
    if wrong := sorted(stored ^ parts.keys()):
        raise DataError(
            f"{checkpoint.folder / TENSORS}: expected the parts of this model; {wrong[0]} is of one side only"
        )


def _of_optimizer(name: str) -> bool:
    return name.startswith("optimizer/")


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        _, index, name = path.split("/")
        like = parameters[int(index)]
        by_parameter.setdefault(int(index), {})[name] = _placed(tensor, like) if tensor.shape == like.shape else tensor
    optimizer.load_state_dict({"state": by_parameter, "param_groups": optimizer.state_dict()["param_groups"]})


# ---- random numbers ------------------------------------------------------------------------------------------------


def _numpy_state() -> dict[str, Any]:
    """Returns the state of NumPy's global generator as JSON values."""
    state: dict[str, Any] = dict(np.random.get_state(legacy=False))
    inner = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in state["state"].items()}
    return state | {"state": inner}


def _restore_random(state: TrainingState, content: Mapping[str, Any], tensor: Callable[[str], Tensor]) -> None:
    stored = content["random"]
    version, inner, gauss = stored["python"]
    random.setstate((version, tuple(inner), gauss))
    numpy = stored["numpy"]
    np.random.set_state(numpy | {"state": numpy["state"] | {"key": np.array(numpy["state"]["key"], dtype=np.uint32)}})
    torch.set_rng_state(tensor("random/torch"))
    if state.device.type == "cuda" and "random/cuda" in content["tensors"]:  # not where it was trained on a CPU before
        torch.cuda.set_rng_state(tensor("random/cuda"), state.device)


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Restores the global generators after the block, whatever it has drawn: evaluating a model changes nothing, and
    need not be repeated where its result is stored."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
