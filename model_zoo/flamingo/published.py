"""Adapts OpenFlamingo (Awadalla et al., 2023; arXiv 2308.01390) as it was published: over a language model of
transformers with its tokenizer, which gets location tokens, and a vision tower of open_clip or timm.

Upstream's factory is not used: it passes `trust_remote_code=True`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.errors import ConfigError, DataError
from harness.inference.outline import makes_outlines
from harness.sequence import NAMES, Codec, CoordinateSpace, NameQuestion, TokenizerTokens, vocabulary_names
from harness.types import Category, Example
from model_zoo import checkpoint, timm_tower
from model_zoo.flamingo import released_checkpoints, vision
from model_zoo.flamingo.adapter import FlamingoAdapter
from model_zoo.flamingo.architectures import TOY
from model_zoo.flamingo.language import END, IMAGE, PAD, Language, load
from model_zoo.flamingo.network import ReaderSizes, TrainableFlamingo, assemble, resize
from model_zoo.flamingo.new_embeddings import Rows, grow
from model_zoo.location_rows import WAVES
from model_zoo.lora import add_lora
from model_zoo.settings import open_flamingo_hf as checks
from model_zoo.settings.lora import LoraSettings
from model_zoo.settings.open_flamingo_hf import with_defaults
from model_zoo.settings.sources import find_saved

CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 317_000,
        "coordinates": "65 bins, y x y x",
        "licence": "MIT (OpenFlamingo), Apache-2.0 (transformers)",
        "weights": "random; published: a released checkpoint.pt, by path or hub",
    },
]
TOY_READING = ReaderSizes(depth=1, latents=16, heads=4, width=16, gate=1.0)
PROMPT = f"{IMAGE}Output:"
"""The prompt with which upstream asks for a caption."""
ASKING = f"{IMAGE}Detect {NAMES}. Output:"
ADDED = ".rows.added"
"""Suffixes of the parameters of new tokens' rows."""


class OpenFlamingoHf(FlamingoAdapter):
    """The Adapter protocol over open_flamingo's Flamingo with a tokenizer.

    Settings:
    language        a folder or GGUF file of transformers, hub:OWNER/NAME@REVISION, toy-FAMILY (random weights), or
                    random-3b, random-4b, random-9b (random weights at a released size, for measuring)
    vision          a ViT of open_clip, timm:NAME, or "toy"; `vision_weights`: "random", a safetensors file, or
                    hub:OWNER/NAME@REVISION; `image_size` in pixels for timm (224)
    every           cross-attention before every so-manyth layer; published: 1 for 3B, 2 for 4B, 4 for 9B
    weights         "random", a released checkpoint.pt, hub:OWNER/NAME@REVISION of one, or what fine-tuning saved: the
                    folder of a finished cell (which is read on top of what that cell began with), or its
                    model.safetensors alone
    bins            location tokens
    trains          "all"; "flamingo" as upstream (perceiver, gated cross-attention, input embeddings);
                    "frozen_embeddings" (only the new tokens' rows of them); "lora" (that, and low-rank changes of the
                    language model's attention; needs peft). New tokens' rows of an output embedding always train:
                    they could not be told apart otherwise.
    lora            {rank: 16, alpha: 32, targets: [...]}: the low-rank changes; targets: how the names of the linear
                    maps end, by default those of the attention
    trust_remote_code  run the code that comes with the language model
    """

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if wrong := self.problems(settings):
            raise ConfigError(*wrong)
        self.settings = full = with_defaults(settings)
        names = vocabulary_names(categories)
        language = load(full["language"], names, full["trust_remote_code"])
        original, released = _add_upstream(language.tokenizer)
        tokens = _tokens(language.tokenizer, full["bins"])
        grow(language.model, original, tokens.size, full["bins"])
        if full["trains"] == "lora":
            add_lora("open_flamingo_hf", language.model, LoraSettings.of(settings), language.family.attention)
        self.vision = vision.build(full["vision"], full["vision_weights"], full["image_size"] or 224)
        model = self._assemble(language, tokens)
        entries = _added(tokens, original)
        self.digests: dict[str, list[str]] = {}
        if not makes_outlines():
            weights = _load_weights(model, language, full["weights"], released, entries)
            self.digests = _digests(language.files, self.vision.file, weights)
        _freeze(model, full["trains"])
        read = language.files and self.vision.file
        saved = {name for name, parameter in model.named_parameters() if parameter.requires_grad} if read else None
        codec = Codec(categories, tokens, CoordinateSpace(full["bins"]))
        super().__init__(model, codec, entries, saved)

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        full = with_defaults(settings)
        lines = [*checks.problems(settings), *vision.problems(full["vision"])]
        if full["trains"] == "lora" and importlib.util.find_spec("peft") is None:
            lines.append("trains: lora needs the package peft; install detmodes[lora]")
        return lines

    places = staticmethod(checks.places)
    places_behind = staticmethod(checks.places_behind)
    remote_code = staticmethod(checks.remote_code)

    def _assemble(self, language: Language, tokens: TokenizerTokens) -> TrainableFlamingo:
        image = language.tokenizer.convert_tokens_to_ids(IMAGE)
        layers, every = language.family.layers, self.settings["every"]
        depth = language.model.config.num_hidden_layers
        if every > depth:
            raise ConfigError(f"every: the language model has {depth} layers, got {every}: it would see no image")
        model = assemble(
            self.vision.tower, self.vision.width, language.model, layers, every, image=image, end=tokens.end
        )
        if self.settings["language"].startswith(TOY):
            resize(model, TOY_READING)
        return model

    @property
    def image_side(self) -> int:
        return self.vision.side

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        return self.vision.pixels(examples)

    def describe(self) -> dict[str, object]:
        sizes = {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "image_size": self.vision.side,
            "location_waves": WAVES,  # how new locations start
        }
        return {"name": "open_flamingo_hf", **self.settings, "sizes": sizes, "weights_digest": self.digests}


# ---- tokens --------------------------------------------------------------------------------------------------------


def _add_upstream(tokenizer: Any) -> tuple[int, int]:
    """Adds the tokens that upstream adds, in its order; returns the number of entries before and after."""
    before = _entries(tokenizer)
    tokenizer.add_tokens([END, IMAGE], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return before, _entries(tokenizer)


def _tokens(tokenizer: Any, bins: int) -> TokenizerTokens:
    locations = [f"<loc{bin}>" for bin in range(bins)]
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0]
    spaced = first.startswith("\u2581")  # it puts a space before any text itself, as SentencePiece does
    return TokenizerTokens(
        tokenizer, locations, prompt=PROMPT, end=END, before="" if spaced else " ", asking=NameQuestion(ASKING)
    )


def _entries(tokenizer: Any) -> int:
    return 1 + max(map(int, tokenizer.get_vocab().values()))


def _added(tokens: TokenizerTokens, original: int) -> list[str]:
    """Returns the entries that identify the vocabulary of saved weights."""
    return [f"{original} entries", *(tokens.decode_text([index]) for index in range(original, tokens.size))]


# ---- what trains ---------------------------------------------------------------------------------------------------


def _freeze(model: TrainableFlamingo, trains: str) -> None:
    model.requires_grad_(trains == "all")
    if trains == "all":
        return
    language = model.lang_encoder
    for part in (model.perceiver, language.gated_cross_attn_layers):
        part.requires_grad_(True)
    for module in language.modules():
        if isinstance(module, Rows):
            module.added.requires_grad_(True)
    if trains == "flamingo":
        language.get_input_embeddings().requires_grad_(True)
    for name, parameter in language.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)


# ---- weights -------------------------------------------------------------------------------------------------------


def _load_weights(
    model: TrainableFlamingo, language: Language, source: str, released: int, entries: Sequence[str]
) -> list[Path]:
    """Reads the setting `weights`, after the weights that it was fine-tuned from; returns the files, in that order.

    released: entries of the tokenizer with upstream's tokens. entries: what identifies the vocabulary.
    """
    saved = find_saved(source)
    if saved is None:
        file = timm_tower.weights_file(source, released_checkpoints.FILE)
        if file is not None:
            released_checkpoints.load(model, language.family, file, released)
        return [] if file is None else [file]
    before = _load_weights(model, language, str(saved.settings.get("weights", "random")), released, entries)
    tensors, stored = checkpoint.read(saved.file)
    if stored[:1] != tuple(entries[:1]):
        raise DataError(f"{saved.file}: made for another tokenizer ({stored[0]}, not {entries[0]})")
    chosen = checkpoint.named_tensors(model)
    fitted = {
        name: checkpoint.fit_added(tensor, chosen[name], stored[1:], entries[1:]) if name.endswith(ADDED) else tensor
        for name, tensor in tensors.items()
        if name in chosen or not name.endswith(ADDED)
    }
    checkpoint.load_parts(model, fitted, saved.file)
    return [*before, saved.file]


def _digests(language: Sequence[Path], vision: Path | None, weights: Sequence[Path]) -> dict[str, list[str]]:
    """Computes the digest of every file that weights were read from."""
    files = {"language": language, "vision": [vision], "weights": weights}
    return {part: [checkpoint.sha256(file) for file in paths if file is not None] for part, paths in files.items()}
