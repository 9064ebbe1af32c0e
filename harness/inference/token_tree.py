"""Represents sequences with common beginnings as one tree of tokens, so that a model reads the common part once.

In: a prompt and, one after the other, tokens that follow existing ones. Out: the tree as tensors, for a model that
reads trees (harness.protocols.EncodesImages), or unrolled into rows for other models.

Shape legend: R trees or rows   L nodes of the largest tree, or tokens of the longest row
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.types import TokenTrees


class TokenTree:
    """A tree of tokens, each a child of the token that it follows. The prompt comes first, and a parent always before
    its children.

    root: the prompt's last node, which the first token of an answer follows.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        """prompt: at least one token."""
        self.tokens = list(prompt)
        self.parents = list(range(-1, len(prompt) - 1))
        self.depths = list(range(len(prompt)))
        self.root = len(prompt) - 1
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def child(self, node: int, token: int) -> int:
        """Returns the node of `token` after `node`, which is made if it does not exist."""
        key = node, token
        if key not in self._children:
            self._children[key] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(node)
            self.depths.append(self.depths[node] + 1)
        return self._children[key]

    def unrolled_size(self) -> tuple[int, int]:
        """Returns the number of leaves, and of tokens on the longest path."""
        return len(self) - len(set(self.parents)) + 1, max(self.depths) + 1

    def paths(self) -> list[list[int]]:
        """Returns the nodes on the path to each leaf."""
        inner = set(self.parents)
        return [self._path(node) for node in range(len(self)) if node not in inner]

    def _path(self, node: int) -> list[int]:
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]


def pack(trees: Sequence[TokenTree], pad: int) -> TokenTrees:
    """Packs each tree into a row, padded on the right: padding is attended by itself only."""
    length = max(map(len, trees))
    tokens, places = torch.full((len(trees), length), pad), torch.zeros(len(trees), length, dtype=torch.long)
    parents = torch.arange(length).repeat(len(trees), 1)  # padding and a first token: their own
    for row, tree in enumerate(trees):
        tokens[row, : len(tree)] = torch.tensor(tree.tokens)
        places[row, : len(tree)] = torch.tensor(tree.depths)
        parents[row, 1 : len(tree)] = torch.tensor(tree.parents[1:])
    return TokenTrees(tokens, places, _ancestors(parents, int(places.max())))


def _ancestors(parents: Tensor, depth: int) -> Tensor:
    """Returns [R, L, L] bool: whether j is i or an ancestor of it. parents [R, L]: the parent of each node, itself
    where there is none; depth: of the deepest node."""
    rows, length = parents.shape
    above = torch.eye(length, dtype=torch.bool).repeat(rows, 1, 1)
    jump = parents  # the node `reach` steps above each
    reach = 1
    while (
        reach <= depth
    ):  # ancestors within 2 n steps are those within n steps of the node or of its ancestor n steps above
        above |= above.gather(1, jump[:, :, None].expand(-1, -1, length))
        jump, reach = jump.gather(1, jump), 2 * reach
    return above


def unroll(trees: Sequence[TokenTree], pad: int) -> tuple[Tensor, list[dict[int, tuple[int, int]]], list[int]]:
    """Unrolls trees into rows [R, L], one for each leaf, padded on the right; also returns for each tree the (row,
    column) of its nodes, and the tree of each row."""
    paths = [(index, path) for index, tree in enumerate(trees) for path in tree.paths()]
    rows = torch.full((len(paths), max(len(path) for _, path in paths)), pad)
    where: list[dict[int, tuple[int, int]]] = [{} for _ in trees]
    for row, (index, path) in enumerate(paths):
        rows[row, : len(path)] = torch.tensor([trees[index].tokens[node] for node in path])
        for column, node in enumerate(path):
            where[index].setdefault(node, (row, column))
    return rows, where, [index for index, _ in paths]
