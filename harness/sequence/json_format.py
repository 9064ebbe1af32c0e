"""Answers in JSON text, as Qwen2.5-VL and Qwen3-VL write them: from names and numbers to tokens, and back.

The text itself is read by harness.sequence.json_objects; here are the tokens that it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harness.errors import ConfigError
from harness.sequence.formats import END, LOCATION, NAME, SEPARATOR, Entry, join_entries
from harness.sequence.json_objects import ReadObject, read_objects
from harness.sequence.tokens import Ids, TextTokens


class JsonFormat:
    """`[{"bbox_2d": [x0, y0, x1, y1], "label": "sofa"}, ...]`: text, numbers included (Qwen2.5-VL, Qwen3-VL).

    Read as text: any tokens and white space that say the same, in a code fence or not; strictly, then leniently. A
    token that holds both a quote and letters of a name counts as name; a token of an entry that cannot be read as
    separator. There is no grammar for it.
    """

    OPENING, MIDDLE, SEPARATOR, CLOSING, EMPTY = '[{"bbox_2d": [', '], "label": "', '"}, {"bbox_2d": [', '"}]', "[]"

    def __init__(self, tokens: TextTokens) -> None:
        self._tokens = tokens
        parts = (self.OPENING, self.MIDDLE, self.SEPARATOR, self.CLOSING)
        self.opening, self.middle, self.separator, self.closing = map(tokens.encode_text, parts)
        for part in (*parts, self.EMPTY, "0, 12, 345, 6789"):
            if "".join(map(tokens.piece, tokens.encode_text(part))).split() != part.split():
                raise ConfigError(f"tokenizer: expected one that can write JSON, {part!r} does not survive it")

    @property
    def terminators(self) -> Ids:
        """What begins with the closing quote, in an answer as it is encoded."""
        return tuple(dict.fromkeys((self.separator[0], self.closing[0])))

    def encode(self, entries: Sequence[tuple[Ids, Sequence[int]]]) -> Ids:
        if not entries:
            return self._tokens.encode_text(self.EMPTY)
        written = [
            (*self._tokens.encode_text(", ".join(map(str, numbers))), *self.middle, *name) for name, numbers in entries
        ]
        return join_entries(written, self.opening, self.separator, self.closing)

    def entries(self, body: Ids, truncated: bool) -> list[Entry | None]:
        pieces = [self._tokens.piece(token) for token in body]
        owners = [token for token, piece in enumerate(pieces) for _ in piece]  # of each character
        objects = read_objects("".join(pieces), truncated)
        return [None if item is None else self._entry(body, pieces, owners, item) for item in objects]

    def kinds(self, tokens: Ids) -> list[int]:
        end = tokens.index(self._tokens.end) if self._tokens.end in tokens else len(tokens)
        kinds = [SEPARATOR] * len(tokens)
        for entry in self.entries(tokens[:end], truncated=end == len(tokens)):
            if entry is not None:
                for position in range(entry.box_start, entry.box_end):
                    digits = any(sign.isdigit() for sign in self._tokens.piece(tokens[position]))
                    kinds[position] = LOCATION if digits else SEPARATOR
                kinds[entry.name_start : entry.name_end] = [NAME] * (entry.name_end - entry.name_start)
        return [END if token == self._tokens.end else kind for token, kind in zip(tokens, kinds, strict=True)]

    def text(self, tokens: Ids, name_of: Callable[[Ids], str]) -> str:
        """Writes the text as it is; `name_of` has nothing to add."""
        del name_of
        end = tokens.index(self._tokens.end) if self._tokens.end in tokens else len(tokens)
        return self._tokens.decode_text(tokens[:end]) + " <end>" * (end < len(tokens))

    def check(self, name: str, ids: Ids) -> None:
        written = self._tokens.decode_text(ids)
        plain = not re.search(r'["{}\\]', name) and not set(ids) & set(self.terminators)
        if not plain or self._tokens.encode_name(written.strip()) != ids:
            raise ConfigError(
                f"tokenizer: {name!r} cannot be written as JSON text and read again, it gives {written!r}"
            )

    def _entry(self, body: Ids, pieces: Sequence[str], owners: Sequence[int], item: ReadObject) -> Entry:
        """The entry that an object says, with the tokens that its label and its numbers stand in."""
        name, box = ((owners[left], owners[right - 1] + 1) for left, right in (item.label_span, item.box_span))
        label, (left, right) = item.label, item.label_span
        if right - left == len(label):  # without escapes
            # Pieces may cut a character in two: what the tokens say together is exact, without what stands around it.
            text, start = "".join(pieces[slice(*name)]), left
            while start and owners[start - 1] == name[0]:
                start -= 1
            before, after = text[: left - start], text[right - start :]
            exact = self._tokens.decode_text(body[slice(*name)]).strip()
            label = exact.removeprefix(before.strip()).removesuffix(after.strip())
        ids = self._tokens.encode_name(label.strip())
        return Entry(ids, item.numbers, *name, *box, item.lenient)
