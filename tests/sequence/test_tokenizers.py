"""Every LVIS name survives every kind of tokenizer, in one sequence of tokens and in JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from harness.errors import ConfigError, DataError
from harness.sequence import Codec, CoordinateSpace, JsonFormat, TokenizerTokens, vocabulary_names
from harness.types import Box, Category
from tests.sequence.test_sequence import read_categories
from tests.support import small_tokenizers

Make = Callable[[Sequence[str]], PreTrainedTokenizerBase]
KINDS: dict[str, tuple[Make, str]] = {
    # how it is made, and what stands before a name
    "byte_level": (small_tokenizers.byte_level, " "),
    "sentencepiece": (small_tokenizers.sentencepiece, ""),
    "gemma_like": (small_tokenizers.gemma_like, " "),
    "word_level": (small_tokenizers.word_level, ""),
    "slow": (small_tokenizers.slow, ""),
}
SOME = ("sofa", "sofa_bed", "wiper_(for_windshield/screen)", "cat's_eye", "air-sleeve", "Band_Aid")
LOCATIONS = [f"<loc{index}>" for index in range(9)]
every_kind = pytest.mark.parametrize("kind", KINDS)
both_files = pytest.mark.parametrize("file", ["data/lvis_v1_categories.json", "data/lvis_val_100.json"])


def made(kind: str, names: Sequence[str] = SOME) -> PreTrainedTokenizerBase:
    return KINDS[kind][0](names)


def tokens_of(kind: str, names: Sequence[str] = SOME) -> TokenizerTokens:
    return TokenizerTokens(made(kind, names), LOCATIONS, before=KINDS[kind][1])


def assert_all_names_survive(codec: Codec) -> None:
    expected = [(name, category.id) for category in codec.categories for name in category.names]
    parsed = codec.decode(codec.encode([(name, Box(0, 0, 8, 8)) for name, _ in expected], 8, 8), 8, 8)
    assert [(mention.name, mention.category_id) for mention in parsed.mentions] == expected
    assert (parsed.malformed, parsed.truncated) == (0, False)
    assert {mention.box for mention in parsed.mentions} == {Box(0, 0, 8, 8)}


@both_files
@every_kind
def test_all_lvis_names_survive(shared: Callable[[str], Path], kind: str, file: str) -> None:
    categories = read_categories(shared(file))
    assert_all_names_survive(Codec(categories, tokens_of(kind, vocabulary_names(categories)), CoordinateSpace(9)))


@both_files
@pytest.mark.parametrize("kind", ["byte_level", "gemma_like", "slow"])
def test_all_lvis_names_survive_in_json(shared: Callable[[str], Path], kind: str, file: str) -> None:
    categories = read_categories(shared(file))
    tokens = TokenizerTokens(made(kind, vocabulary_names(categories)), before="")
    assert_all_names_survive(Codec(categories, tokens, CoordinateSpace(9), JsonFormat(tokens)))


@every_kind
def test_a_name_has_the_same_tokens_wherever_it_stands(kind: str) -> None:
    """And what they say is the name with spaces for underscores; the codec knows which name that is."""
    tokens = tokens_of(kind)
    codec = Codec([Category(1, SOME, None)], tokens, CoordinateSpace(9))
    for name in SOME:
        assert tokens.decode_name(codec.name_ids[name]) == name.replace("_", " ")
    sequence = codec.encode([(name, Box(0, 0, 8, 8)) for name in (*SOME, *SOME)], 8, 8)
    mentions = codec.decode(sequence, 8, 8).mentions
    spans = [sequence[mention.name_start : mention.name_end] for mention in mentions]
    assert spans == [codec.name_ids[name] for name in (*SOME, *SOME)]
    assert codec.text(sequence).startswith("sofa <loc0> <loc0> <loc8> <loc8> ; sofa_bed <loc0>")


@every_kind
def test_pieces_join_to_the_text(kind: str) -> None:
    tokens = tokens_of(kind)
    for name in SOME:
        ids = (*tokens.encode_name(name), tokens.separator, tokens.end, *tokens.encode_name(name))
        assert "".join(map(tokens.piece, ids)).replace(" ", "") == tokens.decode_text(ids).replace(" ", "")
        assert "".join(map(tokens.piece, ids)).strip() == tokens.decode_text(ids).strip()


# ---- tokens that are added or exist ----------------------------------------------------------------------------


@every_kind
def test_location_tokens_are_added_at_the_end(kind: str) -> None:
    before = len(made(kind))
    tokens = tokens_of(kind)
    assert tokens.locations == tuple(range(before, before + 9))
    assert tokens.size == before + 9
    assert tokens.encode_text("<loc0><loc8>") == (tokens.locations[0], tokens.locations[8])


def test_location_tokens_that_exist_are_used() -> None:
    native = [f"<loc{index:04d}>" for index in range(16)]
    tokenizer = small_tokenizers.gemma_like(SOME, native)
    before = len(tokenizer)
    tokens = TokenizerTokens(tokenizer, native[::-1])
    assert len(tokenizer) == tokens.size == before
    assert [tokenizer.convert_ids_to_tokens(token) for token in tokens.locations] == native[::-1]


def test_special_tokens_of_the_prompt_and_the_end() -> None:
    tokenizer = made("byte_level")
    tokens = TokenizerTokens(
        tokenizer, LOCATIONS, added=["<image>"], prompt="<image>detect", end="<|endofchunk|>", before=" "
    )
    assert tokens.decode_text(tokens.prompt) == "<image>detect"
    assert tokens.decode_text(tokens.prompt[:1]) == "<image>"
    assert tokens.decode_text([tokens.end]) == "<|endofchunk|>"
    assert tokens.pad == tokens.end  # the tokenizer has none
    assert tokens_of("byte_level").end == tokenizer.eos_token_id
    assert tokens_of("sentencepiece").pad == made("sentencepiece").pad_token_id != tokens_of("sentencepiece").end


# ---- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [0, NotImplementedError("no")])
def test_a_tokenizer_without_room_is_refused(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """It says so by an exception, or adds nothing."""
    tokenizer = made("word_level")

    def add_tokens(*_: object, **__: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(tokenizer, "add_tokens", add_tokens)
    with pytest.raises(ConfigError, match=r"expected room for 9 tokens such as '<loc0>', its vocabulary is fixed"):
        TokenizerTokens(tokenizer, LOCATIONS)


def test_a_model_without_room_is_refused() -> None:
    rows = len(made("word_level")) + 8
    with pytest.raises(ConfigError, match=rf"tokenizer: {rows + 1} entries .*, the model has room for {rows};"):
        TokenizerTokens(made("word_level"), LOCATIONS, room=rows)
    assert TokenizerTokens(made("word_level"), LOCATIONS, room=rows + 1).size == rows + 1


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = made("word_level")
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="it has no end token"):
        TokenizerTokens(tokenizer)


def test_a_tokenizer_without_a_semicolon_needs_another_separator() -> None:
    tokenizer = small_tokenizers.word_level([])
    tokenizer.add_tokens(["sofa"])
    tokens = TokenizerTokens(tokenizer, LOCATIONS, before="")
    assert ";" not in tokenizer.get_vocab()
    with pytest.raises(ConfigError, match="it has no token for ';'"):
        Codec([Category(1, ("sofa",), None)], tokens, CoordinateSpace(9))


def test_names_that_a_tokenizer_does_not_know_are_refused() -> None:
    categories = [Category(1, ("aardvark",), None), Category(2, ("zebra",), None)]  # both are <unk>
    with pytest.raises(DataError, match="two names have the same tokens"):
        Codec(categories, tokens_of("word_level"), CoordinateSpace(9))


def test_a_name_that_holds_the_separator_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected tokens of 'a;b' that begin no separator"):
        Codec([Category(1, ("a;b",), None)], tokens_of("slow"), CoordinateSpace(9))


def test_json_needs_a_tokenizer_that_can_write_it() -> None:
    tokens = tokens_of("word_level")
    with pytest.raises(ConfigError, match="expected one that can write JSON"):
        JsonFormat(tokens)


@pytest.mark.parametrize("name", ['19"_screen', "a{b}", "back\\slash"])
def test_json_refuses_names_that_would_need_escapes(name: str) -> None:
    tokens = TokenizerTokens(made("slow"), before="")
    with pytest.raises(ConfigError, match="cannot be written as JSON text and read again"):
        Codec([Category(1, (name,), None)], tokens, CoordinateSpace(9), JsonFormat(tokens))
