"""Whole words: which tokens belong together, and masks that hide all of a word or nothing of it."""

import json
from typing import Any

import torch
from torch import Tensor

from r2mae_core import UserError, row_counts

_SPACE, _LETTER, _OTHER, _OPEN = 0, 1, 2, 3
_WHITE = {"byte-level": "\u0120\u010a\u0109\u010d", "metaspace": "\u2581"}
"""How white space is written in the pieces: GPT-2's signs for a space, \\n, \\t and \\r; SentencePiece's sign."""


class Words:
    """Where words start in rows of token ids, told by the pieces of a vocabulary.

    A word starts with white space, behind it, and behind a special token; of WordPiece where there is no "##"; and of
    byte-level pairs also where letters and digits meet other signs.

    Args:
        tokenizer: of transformers, fast.

    Raises:
        UserError: its pieces do not say where words start.
    """

    def __init__(self, tokenizer: Any) -> None:
        size = max(tokenizer.get_vocab().values()) + 1
        pieces = ["" if piece is None else piece for piece in tokenizer.convert_ids_to_tokens(list(range(size)))]
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        if model.get("type") == "WordPiece":
            prefix = model.get("continuing_subword_prefix", "##")
            heads = [_LETTER if piece.startswith(prefix) else _SPACE for piece in pieces]
            tails = [_LETTER] * size
        else:
            marks = {name: sum(piece[:1] in white for piece in pieces if piece) for name, white in _WHITE.items()}
            kind = max(marks, key=lambda name: marks[name])
            if not marks[kind]:
                raise UserError(
                    "the pieces of this tokenizer do not say where words start; mask_shape words needs that"
                )
            heads = [_class(piece[:1], kind) for piece in pieces]
            # A space alone belongs to the word behind it.
            tails = [_OPEN if piece == _WHITE[kind][0] else _class(piece[-1:], kind) for piece in pieces]
        for special in tokenizer.all_special_ids:
            heads[special] = tails[special] = _SPACE
        self.heads, self.tails = torch.tensor(heads, dtype=torch.int8), torch.tensor(tails, dtype=torch.int8)

    def starts(self, tokens: Tensor) -> Tensor:
        """Return where a word starts, (B, L) bool, of ids (B, L)."""
        if self.heads.device != tokens.device:
            self.heads, self.tails = self.heads.to(tokens.device), self.tails.to(tokens.device)
        head, tail = self.heads[tokens], self.tails[tokens].roll(1, dims=1)
        found = (head == _SPACE) | (tail == _SPACE) | ((head != tail) & (tail != _OPEN))
        found[:, 0] = True
        return found


def _class(sign: str, kind: str) -> int:
    if sign in _WHITE[kind]:  # an empty piece, too
        return _SPACE
    if kind == "metaspace" or not sign.isascii() or sign.isalnum():
        return _LETTER
    return _OTHER


def word_mask(
    starts: Tensor,
    ratio: float | Tensor,
    *,
    generator: torch.Generator | None = None,
    valid: Tensor,
    count: str = "exact",
) -> Tensor:
    """Return a mask of whole words, (B, L) bool.

    Args:
        starts: where words start, (B, L) bool.
        ratio: of hidden tokens, or (B,) of those of each row.
        generator: source of randomness, on the device of `starts`.
        valid: tokens that may be hidden, (B, L) bool; a word has none or all of its tokens in it.
        count: "exact": words are taken in a random order until the row's count of tokens is reached, the last one if
            half of it or more is within the count, and one word at least; "bernoulli": each word with this probability.
    """
    (n_rows, length), device = starts.shape, starts.device
    word = starts.cumsum(1) - 1  # the number of each token's word
    scores = torch.rand(n_rows, length, generator=generator, device=device).gather(1, word)
    if count == "bernoulli":
        each = ratio.to(device, scores.dtype)[:, None] if isinstance(ratio, Tensor) else ratio
        return (scores < each) & valid
    order = scores.masked_fill(~valid, 2.0).argsort(dim=1, stable=True)
    place = torch.arange(length, device=device).expand(n_rows, length)
    rank = torch.empty_like(order).scatter_(1, order, place)
    size = torch.zeros_like(word).scatter_add_(1, word, valid.long()).gather(1, word)
    first = torch.full_like(word, length).scatter_reduce_(1, word, rank, "amin").gather(1, word)
    counts = row_counts((n_rows, length), ratio, valid, device)
    return valid & ((first == 0) | (2 * first + size <= 2 * counts.view(n_rows, 1)))
