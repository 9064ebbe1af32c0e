"""Reads and writes weights: safetensors, aliased tensors stored once, digest checked, with their vocabulary."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import DataError
from harness.system.files import give_usual_permissions, replacing
from harness.system.files import sha256 as sha256
from model_zoo.lora import scale_of

DIGESTS = "digests.json"
LORA_A = ".lora_A.default.weight"
LORA_SCALE = 2.0
"""What low-rank changes are multiplied by, alpha / rank, unless a file says otherwise."""
SHOWN = 10
"""Number of mismatches that an error names."""
VOCABULARY = ("lang_encoder.model.embed_tokens.weight", "lang_encoder.lm_head.weight")
"""Parameters of OpenFlamingo with one row per vocabulary entry."""


def save(model: nn.Module, entries: Sequence[str], path: Path, names: Collection[str] | None = None) -> str:
    """Writes parameters and buffers (each aliased tensor once, under its first name), or only `names`; returns the
    sha256."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _chosen(model, names).items()}
    scale = scale_of(model)
    scaled = {} if scale in (None, LORA_SCALE) else {"lora_scale": repr(scale)}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"entries": json.dumps(list(entries)), **scaled})
        give_usual_permissions(partial)
    return sha256(path)


def read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Reads the tensors by name, and the vocabulary entries of their rows."""
    try:
        with safe_open(path, framework="pt") as file:
            entries = tuple(json.loads((file.metadata() or {})["entries"]))
            return {name: file.get_tensor(name) for name in file.keys()}, entries  # noqa: SIM118
    except FileNotFoundError:
        raise DataError(f"{path}: no such weights file") from None
    except (SafetensorError, KeyError, OSError) as error:
        raise DataError(f"{path}: expected safetensors written by detmodes, got: {error}") from None


def _saved_scale(path: Path) -> float:
    """Reads alpha / rank of the low-rank changes in a file."""
    with safe_open(path, framework="pt") as file:
        return float((file.metadata() or {}).get("lora_scale", LORA_SCALE))


def read_shipped(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    """Reads `open_flamingo-BASE.safetensors` as `read` does, after checking it against its digest in `digests.json`."""
    remedy = f"detmodes pretrain --base {path.stem.rpartition('-')[2]} --install"
    if not path.is_file():
        raise DataError(f"{path}: no such weights file; make it with: {remedy}")
    expected = _digest(path)
    actual = sha256(path)
    if actual != expected:
        raise DataError(f"{path}: expected sha256 {expected}, got {actual}; restore the file or run: {remedy}")
    return *read(path), actual


def _digest(path: Path) -> str | None:
    """Returns the digest of a shipped file; None if the list does not name it."""
    digests = path.parent / DIGESTS
    try:
        listed: dict[str, str] = json.loads(digests.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{digests}: expected the digests of the shipped weights, got: {error}") from None
    return listed.get(path.name)


def load_parts(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copies tensors of a fine-tuned model into another one of the same sizes; its other tensors are unchanged.

    Low-rank changes are added to their matrices where the model has no such parameters. DataError names the tensors
    that do not fit.
    """
    named = named_tensors(model)
    changes = {name.removesuffix(LORA_A): name for name in tensors if name.endswith(LORA_A) and name not in named}
    places = {name: _place(name, named) for name in tensors if name.rpartition(".lora_")[0] not in changes}
    expected: dict[str, Sequence[int]] = {
        name: named[place].shape for name, place in places.items() if place is not None
    }
    expected |= {f"{name}.weight": () for name in changes if _place(f"{name}.weight", named) is None}
    given = {name: tensor for name, tensor in tensors.items() if name in places}
    if wrong := mismatches(expected, given):
        raise DataError(f"{source}: does not fit the model: {'; '.join(wrong[:SHOWN])}")
    low_rank = any(name.endswith(LORA_A) for name in tensors)
    saved_scale = _saved_scale(source) if low_rank else LORA_SCALE
    model_scale = scale_of(model)
    if low_rank and not changes and model_scale != saved_scale:
        raise DataError(f"{source}: expected low-rank changes times {model_scale} (alpha / rank), got {saved_scale}")
    with torch.no_grad():
        for name, tensor in given.items():
            named[str(places[name])].copy_(tensor)
        for name, down in changes.items():
            up = tensors[down.replace("lora_A", "lora_B")]
            weight = named[str(_place(f"{name}.weight", named))]
            weight += (saved_scale * up.float() @ tensors[down].float()).to(weight)


def _place(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of a stored tensor in a model, with or without low-rank changes."""
    stem, _, last = name.rpartition(".")
    candidates = (name, name.replace(".base_layer.", "."), f"{stem}.base_layer.{last}")
    return next((candidate for candidate in candidates if candidate in tensors), None)


def load(model: nn.Module, tensors: Mapping[str, Tensor], names: Collection[str] | None = None) -> None:
    """Copies every tensor into the model, or only into its `names`; both must have the same names and shapes."""
    chosen = _chosen(model, names)
    wrong = mismatches({name: tensor.shape for name, tensor in chosen.items()}, tensors)
    if wrong:
        raise DataError(f"weights do not fit the model: {'; '.join(wrong[:SHOWN])}")
    with torch.no_grad():
        for name, tensor in chosen.items():
            tensor.copy_(tensors[name])


def mismatches(expected: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor]) -> list[str]:
    """Lists mismatches, one line each, sorted: missing and unexpected names, other shapes."""
    wrong = [f"{name} missing" for name in expected.keys() - tensors.keys()]
    wrong += [f"{name} unexpected" for name in tensors.keys() - expected.keys()]
    wrong += [
        f"{name}: expected {tuple(expected[name])}, got {tuple(tensors[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tuple(expected[name]) != tuple(tensors[name].shape)
    ]
    return sorted(wrong)


def fit_vocabulary(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    stored: Sequence[str],
    wanted: Sequence[str],
    vocabulary: Collection[str] = VOCABULARY,
) -> dict[str, Tensor]:
    """Returns tensors whose vocabulary rows follow `wanted`; `vocabulary`: the parameters with such rows.

    Rows of known entries are copied. Locations of another number of bins are interpolated between the stored ones.
    Rows of new names are the mean of the stored names' rows plus the model's random initialisation, so that they
    start alike but can diverge.
    """
    if list(stored) == list(wanted):
        return dict(tensors)
    initial = named_tensors(model)
    return {
        name: _fit_rows(tensor, initial[name].detach(), stored, wanted) if name in vocabulary else tensor
        for name, tensor in tensors.items()
    }


def fit_added(tensor: Tensor, fresh: Tensor, stored: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Returns rows [M, D] of new tokens from stored ones: known entries are copied, locations of another number of
    bins are interpolated, and other rows are those of `fresh` [M, D]."""
    if list(stored) == list(wanted):
        return tensor
    rows, index = fresh.detach().clone(), {entry: row for row, entry in enumerate(stored)}
    bins = [[row for row, entry in enumerate(entries) if entry.startswith("<loc")] for entries in (stored, wanted)]
    for row, entry in enumerate(wanted):
        if entry in index:
            rows[row] = tensor[index[entry]]
    if len(bins[0]) != len(bins[1]):
        rows[bins[1]] = _stretched(tensor[bins[0]], len(bins[1]))
    return rows


def _stretched(rows: Tensor, count: int) -> Tensor:
    """Interpolates rows for a number of bins from those of another number of bins."""
    return nn.functional.interpolate(rows.T[None], size=count, mode="linear", align_corners=True)[0].T


def _fit_rows(tensor: Tensor, fresh: Tensor, stored: Sequence[str], wanted: Sequence[str]) -> Tensor:
    index = {entry: row for row, entry in enumerate(stored)}
    old_bins = [row for row, entry in enumerate(stored) if entry.startswith("<loc")]
    new_bins = [row for row, entry in enumerate(wanted) if entry.startswith("<loc")]
    names = [row for row in range(len(stored)) if row > max(old_bins)]
    rows = fresh + tensor[names].mean(0)
    for row, entry in enumerate(wanted):
        if entry in index:
            rows[row] = tensor[index[entry]]
    if len(old_bins) != len(new_bins):
        rows[new_bins] = _stretched(tensor[old_bins], len(new_bins))
    return rows


def _chosen(model: nn.Module, names: Collection[str] | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in named_tensors(model).items() if names is None or name in names}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and persistent buffers, without aliases."""
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {**dict(model.named_parameters()), **buffers}
