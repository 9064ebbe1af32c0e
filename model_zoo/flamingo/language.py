"""Loads language models for OpenFlamingo by family, from a local folder, a GGUF file or the hub, or random at toy
size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from harness.errors import ConfigError, DataError
from harness.inference.outline import makes_outlines, note_assumption
from model_zoo.flamingo.architectures import FAMILIES, TOY, Architecture
from model_zoo.flamingo.released_sizes import ENTRIES, build_language, released_size, size_of_repository
from model_zoo.settings.sources import HUB

END, IMAGE, PAD = "<|endofchunk|>", "<image>", "<PAD>"
"""The tokens that upstream adds to a tokenizer, in this order; the last only if it has no padding token."""
FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.gguf")
"""Files that are downloaded from a repository; its code only where it is trusted."""
WITHOUT_WEIGHTS = ("*.json", "*.model", "*.txt")


WIDTH, LAYERS, HEADS, POSITIONS = 64, 2, 4, 512
"""Sizes of the toys."""


@dataclass(frozen=True, slots=True)
class Language:
    """A causal language model of transformers with its tokenizer. files: its weights on this machine."""

    model: Any
    tokenizer: Any
    family: Architecture
    files: tuple[Path, ...]


def load(source: str, names: Iterable[str], trusted: bool) -> Language:
    """Loads what `source` names: `toy-FAMILY`, a released size with random weights (see
    `model_zoo.flamingo.released_sizes`), a folder, a GGUF file, or hub:OWNER/NAME@REVISION.

    names: those in a toy's tokenizer. trusted: run the code that comes with the model. ConfigError for an unknown
    family, and for one that transformers would compute differently; DataError for files that are missing or do not
    fit.
    """
    if source.startswith(TOY):
        family = source.removeprefix(TOY)
        tokenizer = toy_tokenizer(names)
        return Language(toy_model(family, len(tokenizer)), tokenizer, FAMILIES[family], ())
    size = released_size(source)
    if size is not None:
        tokenizer = toy_tokenizer(names, ENTRIES)
        return Language(build_language(size, len(tokenizer)), tokenizer, FAMILIES[size.family], ())
    if makes_outlines():
        return _outline(source, names, trusted)
    return _read(_local(source, trusted), trusted)


# ---- toys ----------------------------------------------------------------------------------------------------------


def toy_tokenizer(names: Iterable[str], entries: int = 0) -> PreTrainedTokenizerFast:
    """Makes a tokenizer with one token for each word of the names, with the space before it, and for each other
    character; unused tokens fill it up to so many entries."""
    pieces = r" ?[A-Za-z0-9]+| ?[^A-Za-z0-9\s]"
    texts = ["Output: ;", "a", ";", *(" " + name.replace("_", " ") for name in names)]
    words = dict.fromkeys(piece for text in texts for piece in re.findall(pieces, text))
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", "</s>", *words])}
    vocabulary |= {f"<unused{index}>": index for index in range(len(vocabulary), entries)}
    fast = FastTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), "isolated")
    fast.decoder = decoders.Fuse()
    special = {"unk_token": "<unk>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=fast, **special)  # type: ignore[no-untyped-call]


def toy_model(family: str, size: int) -> Any:
    """Makes a language model of this family with random weights, from torch's global generator, for `size` tokens."""
    common: dict[str, Any] = {"vocab_size": size, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
    usual = {
        **common,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
    }
    if family == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**usual, intermediate_size=2 * WIDTH, tie_word_embeddings=False))
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**usual, intermediate_size=2 * WIDTH, tie_word_embeddings=False))
    if family == "mpt":
        sizes: dict[str, Any] = {"d_model": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": POSITIONS}
        return MptForCausalLM(MptConfig(**common, **sizes))
    return OPTForCausalLM(OPTConfig(**usual, ffn_dim=2 * WIDTH, word_embed_proj_dim=WIDTH, dropout=0.0))


# ---- real ones -----------------------------------------------------------------------------------------------------


def _local(source: str, trusted: bool, files: tuple[str, ...] = FILES) -> Path:
    """Returns the folder of the model on this machine, after downloading such files of it if necessary."""
    if not source.startswith(HUB):
        return Path(source)
    name, _, revision = source.removeprefix(HUB).partition("@")
    patterns = [*files, *(["*.py"] if trusted else [])]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"{source}: cannot be downloaded ({first_line(error)}); give a folder instead") from None


def _read(path: Path, trusted: bool) -> Language:
    single = path.suffix == ".gguf"
    folder, where = (path.parent, {"gguf_file": path.name}) if single else (path, {})
    kind = None if single else _kind(path, trusted)
    options = {"trust_remote_code": trusted, "local_files_only": True, **where}
    whole = {"dtype": "float32", "weights_only": True, "output_loading_info": True}  # of a .bin file tensors alone
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **whole, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"{path}: expected a language model with its tokenizer, got: {first_line(error)}") from None
    model, report = loaded
    wrong = [f"{name} missing" for name in sorted(report["missing_keys"])]
    if wrong:
        raise DataError(f"{path}: its weights do not fit its configuration: {'; '.join(wrong[:10])}")
    files = (path,) if single else sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin"))
    return Language(model, tokenizer, _family(kind or model.config.model_type, path), tuple(files))


def _outline(source: str, names: Iterable[str], trusted: bool) -> Language:
    """The model by its configuration, without weights. One that is not on this machine, but was released, is taken to
    have the shape of the release; its tokenizer is then a toy's: one token a word, in as many entries."""
    path = Path(source.removeprefix(HUB) if source.startswith(HUB) else source)
    size = None if path.exists() else size_of_repository(source)
    if size is not None:
        note_assumption(f"language {source} is not here: taken for the released model, one token a word of a name")
        tokenizer = toy_tokenizer(names, ENTRIES)
        return Language(build_language(size, len(tokenizer)), tokenizer, FAMILIES[size.family], ())
    folder = _local(source, trusted, WITHOUT_WEIGHTS)
    if folder.suffix == ".gguf":
        raise ConfigError(f"language: a GGUF file has no configuration to estimate from; give a folder, got {folder}")
    kind = _kind(folder, trusted)
    where = {"trust_remote_code": trusted, "local_files_only": True}
    try:
        read: Any = AutoTokenizer.from_pretrained(folder, **where)
        config = AutoConfig.from_pretrained(folder, **where)
        builder: Any = AutoModelForCausalLM
        model = builder.from_config(config, trust_remote_code=trusted, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"{folder}: expected a language model with its tokenizer, got: {first_line(error)}") from None
    return Language(model, read, _family(kind, folder), ())


def _kind(folder: Path, trusted: bool) -> str:
    """Reads the model's type before anything is built."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected the configuration of a language model, got: {first_line(error)}") from None
    kind = str(config.get("model_type"))
    if not trusted:
        if _normalises_queries(config):
            raise ConfigError(
                f"language: {folder.name} has qk_ln, which transformers' own MPT ignores: its answers would be wrong; "
                "--trust-remote-code with what `language` names runs the code that comes with it, if you trust it"
            )
        _family(kind, folder)
    return kind


def _normalises_queries(config: Mapping[str, Any]) -> bool:
    """Reads MPT's layer normalisation of queries and keys, under the names that its configurations have used."""
    attention = config.get("attn_config")
    return bool(config.get("attn_qk_ln") or (isinstance(attention, Mapping) and attention.get("qk_ln")))


def _family(kind: str, path: Path) -> Architecture:
    kind = {"mosaic_gpt": "mpt"}.get(kind, kind)  # the name in MPT-1B
    if kind not in FAMILIES:
        raise ConfigError(f"language: {path.name} is a {kind!r}; available: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
