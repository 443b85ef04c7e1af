"""Letters and numbers: the vocabulary "-ACGT?" of GPN-MSA, strands, and names of chromosomes.

A store keeps one byte per letter: the token 0 to 4, plus `SOFT_MASK` where the reference is lower-case (a repeat).
Everything that is not A, C, G or T is a gap, as in the published models.
"""

import numpy as np

VOCABULARY = "-ACGT?"
GAP, MASK = 0, 5
N_TOKENS, N_LETTERS = 6, 5
SOFT_MASK = 8
"""Bit of a reference byte whose letter was lower-case."""
TOKEN_BITS = 7


def _tables() -> tuple[np.ndarray, np.ndarray]:
    upper, cased = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for token, letter in enumerate("ACGT", start=1):
        upper[[ord(letter), ord(letter.lower())]] = token
        cased[ord(letter)], cased[ord(letter.lower())] = token, token | SOFT_MASK
    return upper, cased


ENCODE, ENCODE_REFERENCE = _tables()
"""Byte of a letter → token; the second keeps the reference's case in the `SOFT_MASK` bit."""

COMPLEMENT = np.arange(16, dtype=np.uint8)
"""Byte of the store → byte on the other strand: A↔T, C↔G; gap, mask and the case stay."""
COMPLEMENT[1:5] = [4, 3, 2, 1]
COMPLEMENT[SOFT_MASK + 1 : SOFT_MASK + 5] = np.array([4, 3, 2, 1]) | SOFT_MASK


def reverse_complement(codes: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the other strand: positions reversed along `axis`, letters complemented, in every row."""
    return COMPLEMENT[np.flip(codes, axis)]


def decode(codes: np.ndarray) -> str:
    """Return the letters of tokens (n,), lower-case where the reference is soft-masked."""
    letters = np.frombuffer(b"-ACGT?---acgt---", np.uint8)
    return letters[codes].tobytes().decode("ascii")
