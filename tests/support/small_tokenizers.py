"""Tokenizers of the kinds that model families use, trained here on a few hundred words: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END, UNKNOWN = "<|end|>", "<unk>"
JSON_TEXT = '[{"bbox_2d": [0, 12, 345, 6789], "label": "a"}, {"bbox_2d": [1, 2, 3, 4], "label": "b"}] []'


def byte_level(names: Sequence[str]) -> PreTrainedTokenizerBase:
    """BPE over bytes, as of GPT-NeoX, MPT, OPT, Llama 3 and Qwen, whose way to split text it has."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator(_texts(names), trainer)
    return _fast(tokenizer, eos_token=END)


def sentencepiece(names: Sequence[str]) -> PreTrainedTokenizerBase:
    """Unigram that puts a space before any text, as of Llama 2 and T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=700, special_tokens=["<pad>", END, UNKNOWN], unk_token=UNKNOWN, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(names), trainer)
    return _fast(tokenizer, eos_token=END, pad_token="<pad>", unk_token=UNKNOWN)


def gemma_like(names: Sequence[str], locations: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """BPE over characters with a normal sign for the space and none before a text; has location tokens already."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=700 + len(locations),
        special_tokens=["<pad>", "<eos>", UNKNOWN, *locations],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(names), trainer)
    return _fast(tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token=UNKNOWN)


def word_level(names: Sequence[str]) -> PreTrainedTokenizerBase:
    """A token for each word."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=[END, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(_texts(names), trainer)
    return _fast(tokenizer, eos_token=END, unk_token=UNKNOWN)


def slow(names: Sequence[str]) -> PreTrainedTokenizerBase:
    """One written in Python, of bytes."""
    del names
    return ByT5Tokenizer(extra_ids=0)


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]
    return made


def _texts(names: Sequence[str]) -> list[str]:
    return [
        *(f"a {name} ;".replace("_", " ") for name in names),
        *(name.replace("_", " ") for name in names),
        JSON_TEXT,
    ]
