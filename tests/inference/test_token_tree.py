"""Trees of tokens: what is shared, what sees what, and the same sequences as rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.inference.token_tree import TokenTree, pack, unroll

PAD = 0


def tree_of(prompt: list[int], *sequences: list[int]) -> TokenTree:
    tree = TokenTree(prompt)
    for sequence in sequences:
        node = tree.root
        for token in sequence:
            node = tree.child(node, token)
    return tree


def test_a_tree_by_hand() -> None:
    # 8 9 | 1 2 3, 1 2 4 and 5: nodes 8 9 1 2 3 4 5; 4 stands after 2, and 5 after the prompt.
    tree = tree_of([8, 9], [1, 2, 3], [1, 2, 4], [5])
    assert tree.tokens == [8, 9, 1, 2, 3, 4, 5]
    assert tree.parents == [-1, 0, 1, 2, 3, 3, 1]
    assert tree.unrolled_size() == (3, 5)
    packed = pack([tree, TokenTree([7])], PAD)
    assert packed.tokens.tolist() == [[8, 9, 1, 2, 3, 4, 5], [7, 0, 0, 0, 0, 0, 0]]
    assert packed.places[0].tolist() == [0, 1, 2, 3, 4, 4, 2]
    visible = [[j for j in range(7) if packed.sees[0, i, j]] for i in range(7)]
    assert visible == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 5], [0, 1, 6]]
    assert packed.sees[1].int().tolist() == [[int(i == j) for j in range(7)] for i in range(7)]
    rows, where, owners = unroll([tree, TokenTree([7])], PAD)
    assert rows.tolist() == [[8, 9, 1, 2, 3], [8, 9, 1, 2, 4], [8, 9, 5, 0, 0], [7, 0, 0, 0, 0]]
    assert owners == [0, 0, 0, 1]
    assert where == [{0: (0, 0), 1: (0, 1), 2: (0, 2), 3: (0, 3), 4: (0, 4), 5: (1, 4), 6: (2, 2)}, {0: (3, 0)}]


SEQUENCES = st.lists(st.lists(st.integers(1, 3), max_size=9), max_size=8)


@given(st.lists(SEQUENCES, min_size=1, max_size=4))
def test_what_a_node_sees_is_its_sequence(groups: list[list[list[int]]]) -> None:
    trees = [tree_of([9], *sequences) for sequences in groups]
    packed = pack(trees, PAD)
    rows, where, owners = unroll(trees, PAD)
    for index, (tree, sequences) in enumerate(zip(trees, groups, strict=True)):
        beginnings = {tuple(sequence[:cut]) for sequence in sequences for cut in range(len(sequence) + 1)} | {()}
        assert len(tree) == len(beginnings)  # each beginning is there once
        reached = set()
        for node in range(len(tree)):
            visible = [
                token for token, is_visible in zip(tree.tokens, packed.sees[index, node], strict=False) if is_visible
            ]
            reached.add(tuple(visible[1:]))
            row, column = where[index][node]
            assert owners[row] == index
            assert rows[row, : column + 1].tolist() == visible
            assert int(packed.places[index, node]) == column
        assert reached == beginnings
