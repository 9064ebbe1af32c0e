"""Loads the parts of a vision-language model: weights and tokenizer from a folder or a pinned revision, or a toy of
both.

Weights are read only from safetensors files, and no code that comes with them is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from harness.errors import ConfigError, DataError
from harness.inference.outline import makes_outlines
from harness.sequence import NameQuestion, TokenizerTokens
from model_zoo import checkpoint
from model_zoo.lora import add_lora
from model_zoo.settings.lora import LoraSettings
from model_zoo.settings.sources import HUB
from model_zoo.vlm.family import TOY_SIDE, Family, ImagePrompt

DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Files that are downloaded from a repository: none of them is unpickled or run."""
TOY_ENTRIES = 1200
"""Entries of a toy's tokenizer, before the family's tokens: 256 bytes, and merges for the names."""
QWEN_QUESTION = 'Locate every object, report bbox coordinates and labels ("bbox_2d", "label") in JSON format.'
QWEN_TURN = f"<|im_start|>user\n<|vision_start|><|vision_end|>{QWEN_QUESTION}<|im_end|>\n<|im_start|>assistant\n"
TOY_PROMPTS = (
    "<bos>detect all\n",
    "<bos>detect all\n",
    "<s><image></image><grounding>",
    "<s>Locate the objects with category name in the image.</s>",
    "<s>User:<fake_token_around_image><fake_token_around_image>Name every object and where it is.\nAssistant:",
    f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{QWEN_TURN}",
    QWEN_TURN,
)
"""Texts that a toy's tokenizer is trained on beside the names: prompts of the first seven families, whichever there are
today, so that another family changes the tokenizer of none."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj")


def weights_folder(weights: str) -> Path | None:
    """Returns the folder of the weights on this machine, after downloading it if necessary; None for a toy. DataError
    if there are none."""
    if weights == "random":
        return None
    if not weights.startswith(HUB):
        if not (Path(weights) / "config.json").is_file():
            raise DataError(f"{weights}: expected a folder with config.json, safetensors and a tokenizer")
        return Path(weights)
    name, _, revision = weights.removeprefix(HUB).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"{weights}: cannot be downloaded ({_first_line(error)}); give a folder instead") from None


def _from(folder: Path, maker: Any, **more: Any) -> Any:
    try:
        return maker.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **more)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{folder}: transformers cannot read it: {_first_line(error)}") from None


def tokenizer(folder: Path | None, names: Iterable[str]) -> Any:
    """Returns the folder's tokenizer, or a toy for these names."""
    return toy_tokenizer(names) if folder is None else _from(folder, AutoTokenizer)


def config(folder: Path | None, family: Family, tokenizer: Any) -> PreTrainedConfig:
    """Returns the folder's configuration, or a toy's. ConfigError where the folder holds another family."""
    if folder is None:
        return family.toy(_tokens(tokenizer, family, ""), tokenizer.convert_tokens_to_ids)
    read: PreTrainedConfig = _from(folder, AutoConfig)
    if read.model_type != family.model_type:
        raise ConfigError(f"vlm.weights: expected a {family.model_type} model in {folder}, got {read.model_type}")
    return read


def build(config: PreTrainedConfig, folder: Path | None, family: Family, entries: int) -> PreTrainedModel:
    """Builds the model in float32, with room for so many vocabulary entries; random weights from torch's generator."""
    if folder is None:
        made: PreTrainedModel = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
        return made
    if makes_outlines():
        return _outline(config, entries, family)
    made = _from(folder, AutoModelForImageTextToText, use_safetensors=True, dtype=torch.float32)
    if entries > _rows(made):
        family.grow(made, entries)
    return made


def _outline(config: PreTrainedConfig, entries: int, family: Family) -> PreTrainedModel:
    """The same model without its weights."""
    made: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    if entries > _rows(made):
        family.grow(made, entries)
    return made


def _rows(model: PreTrainedModel) -> int:
    """Returns the number of vocabulary entries that the model has room for."""
    table: Any = model.get_input_embeddings()
    return len(table.weight) + getattr(table, "num_additional_embeddings", 0)


def choose_trained(model: PreTrainedModel, family: Family, settings: Mapping[str, Any], new: bool) -> None:
    """Enables gradients for the parameters of the setting `trains`. ConfigError where peft is needed and missing.

    new: the model has not learnt the meaning of its tokens, so their embeddings are trained beside low-rank changes.
    """
    embeddings: Any = model.get_input_embeddings()
    trains = settings["trains"]
    if trains == "lora":
        add_lora("vlm", model, LoraSettings.of(settings), ATTENTION, frozen=family.vision)
    for name, parameter in model.named_parameters():
        adapted = "lora_" in name or (parameter is embeddings.weight and new)
        decoder = not name.startswith(family.vision)
        parameter.requires_grad_({"all": True, "decoder": decoder, "lora": adapted}[trains])


def digest(folder: Path) -> str:
    """Computes the digest of the folder's configuration and weights."""
    parts = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return " ".join(checkpoint.sha256(part) for part in parts)


def image_side(config: Any, family: Family, asked: int | None, toy: bool) -> int:
    """Returns S. ConfigError where the model has another size, or the family needs a multiple of another number."""
    fixed = getattr(config.vision_config, "image_size", None)
    if isinstance(fixed, list | tuple):  # height and width
        if len(set(fixed)) > 1:
            raise ConfigError(f"vlm: expected a model that reads square images, this one reads {list(fixed)} pixels")
        fixed = fixed[0]
    if fixed is not None and asked not in (None, fixed):
        raise ConfigError(f"vlm.image_size: this model reads {fixed} pixels a side, got {asked}; leave it out")
    side: int = fixed or asked or (TOY_SIDE if toy else family.side)
    if side % family.step(config):
        raise ConfigError(f"vlm.image_size: expected a multiple of {family.step(config)}, got {side}")
    return side


def _tokens(tokenizer: Any, family: Family, prompt: str, asking: str = "") -> TokenizerTokens:
    added = (family.image, *family.tokens)
    return TokenizerTokens(
        tokenizer,
        family.locations,
        added=added,
        prompt=prompt,
        end=family.end,
        before=family.before,
        asking=NameQuestion(asking, family.between),
    )


def prompt(
    tokenizer: Any, family: Family, config: Any, side: int, question: str | None
) -> tuple[TokenizerTokens, ImagePrompt]:
    """Returns the family's tokens, whose prompt is the decoder's, and the prompt that contains the image."""
    count = family.image_tokens(config, side)
    if question is not None and family.image in question:
        raise ConfigError(f"vlm.question: expected text without {family.image}, got {question!r}")
    text, asking = (
        family.prompt.format(image=family.image * count, question=question or text)
        for text in (family.question, family.asking)
    )
    if family.answer is None:
        tokens = _tokens(tokenizer, family, text, asking)
    else:  # the encoder reads the same for every row
        tokens = _tokens(tokenizer, family, family.answer)
    ids = tokens.encode_text(text)
    image = tokenizer.convert_tokens_to_ids(family.image)
    # Where the token also opens the image, as in Kosmos-2, those of the image are the last.
    start = [place for place, token in enumerate(ids) if token == image][-count]
    return tokens, ImagePrompt(ids, start, count)


def toy_tokenizer(names: Iterable[str]) -> PreTrainedTokenizerBase:
    """Trains a BPE tokenizer over bytes on the names."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOY_ENTRIES, initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False
    )
    tokenizer.train_from_iterator(_toy_texts(names), trainer)
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")  # type: ignore[no-untyped-call]
    return made


def _toy_texts(names: Iterable[str]) -> list[str]:
    spaced = [name.replace("_", " ") for name in names]
    return [*spaced, *(f" {name} ; " for name in spaced), *TOY_PROMPTS]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
