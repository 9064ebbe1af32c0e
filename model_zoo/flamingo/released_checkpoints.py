"""Reads checkpoints as OpenFlamingo released them: the perceiver, the gated cross-attention and the embeddings.

They hold neither the vision tower nor the decoder, which were frozen. Files of training runs have the same below
`model_state_dict`, with the prefix of data parallelism.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import DataError
from model_zoo import checkpoint
from model_zoo.flamingo.architectures import Architecture
from model_zoo.flamingo.language import first_line
from model_zoo.flamingo.network import TrainableFlamingo
from model_zoo.flamingo.new_embeddings import Rows

FILE = "checkpoint.pt"
"""File name in the released repositories."""
READERS = ".gated_cross_attn_layer."


def load(model: TrainableFlamingo, family: Architecture, path: Path, count: int) -> None:
    """Reads a released checkpoint into a model of the same sizes.

    count: entries of the tokenizer with upstream's tokens, whose embedding rows the file has. A separate output
    embedding is read where the file has one: upstream did not train it, nor always store it. DataError names the
    first mismatches.
    """
    tensors = read(path)
    places = _places(model, family)
    rows = _rows(model, family)
    expected: dict[str, Sequence[int]] = {name: tensor.shape for name, tensor in places.items()}
    needed, *optional = rows
    expected |= {name: (count, rows[name].kept.shape[1]) for name in (needed, *optional) if name in (needed, *tensors)}
    if wrong := checkpoint.mismatches(expected, tensors):
        more = f" (and {len(wrong) - checkpoint.SHOWN} more)" if len(wrong) > checkpoint.SHOWN else ""
        raise DataError(f"{path}: does not fit the model: {'; '.join(wrong[: checkpoint.SHOWN])}{more}")
    with torch.no_grad():
        for name in expected:
            if name in rows:
                _fill(rows[name], tensors[name])
            else:
                places[name].copy_(tensors[name])


def read(path: Path) -> dict[str, Tensor]:
    """Reads the tensors, under their names in a released checkpoint. DataError if it is invalid."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such weights file") from None
    except MemoryError:
        raise
    except Exception as error:  # the unpickler may raise any error on invalid input
        raise DataError(f"{path}: expected a checkpoint that torch.save wrote, got: {first_line(error)}") from None
    inner = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not isinstance(inner, dict) or not all(isinstance(value, Tensor) for value in inner.values()):
        raise DataError(f"{path}: expected a state dict of tensors, got {type(content).__name__}")
    return {name.removeprefix("module."): tensor for name, tensor in inner.items()}


def _places(model: TrainableFlamingo, family: Architecture) -> dict[str, Tensor]:
    """Returns the tensors that a checkpoint must have besides embeddings, by their names there."""
    layers = f"lang_encoder.{family.layers}."
    return {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name.startswith("perceiver.") or (name.startswith(layers) and READERS in name)
    }


def _rows(model: TrainableFlamingo, family: Architecture) -> dict[str, Rows]:
    """Returns the embeddings by their names in a checkpoint: the input first, then the output if it has separate
    rows."""
    language = model.lang_encoder
    source, target = language.get_input_embeddings(), language.get_output_embeddings()
    name = next(name for name, module in language.named_modules() if module is source)
    rows = {f"lang_encoder.{name}.weight": source.rows}
    if target.rows is not source.rows:
        rows[f"lang_encoder.{family.output}.weight"] = target.rows
    return rows


def _fill(rows: Rows, weight: Tensor) -> None:
    """Sets the first rows from a checkpoint; those below them (locations) are initialised again from these."""
    count = len(rows.kept)
    rows.kept.copy_(weight[:count])
    rows.start()
    rows.added[: len(weight) - count] = weight[count:]
