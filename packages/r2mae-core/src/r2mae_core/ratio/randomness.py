"""Randomness as a pure function of (seed, position): nothing to save, the same after a resume and on every rank.

numpy is imported inside the functions because `--help` reads the modules that use them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SAMPLES = 2**63
"""The stream of the draws per sample."""


def uniform_draw(seed: int, step: int, stream: int = 0) -> float:
    """Return a float in [0, 1) that depends on (seed, step, stream) alone, by a counter-based generator (Philox).

    Args:
        seed: the user's seed.
        step: the position in the sequence; neighbouring steps are independent.
        stream: keeps different uses of one seed apart.
    """
    import numpy as np

    key = np.array([seed % 2**64, stream], dtype=np.uint64)  # a plain list with large words would become floats
    bits = np.random.Philox(key=key, counter=[step, 0, 0, 0]).random_raw()
    return (int(bits) >> 11) * 2.0**-53


def uniform_draws(seed: int, step: int, n: int, first: int = 0) -> "np.ndarray":
    """Return floats in [0, 1) for the places `first` to `first + n - 1` of a step, independent of `uniform_draw`'s.

    Each depends on (seed, step, its place) alone, so a part of the places is a part of the whole.

    Args:
        seed: the user's seed.
        step: the position in the sequence.
        n: how many.
        first: the place of the first.

    Returns:
        (n,) float64.
    """
    import numpy as np

    key = np.array([seed % 2**64, SAMPLES], dtype=np.uint64)
    # A counter gives four words, and the generator adds one to it before the first.
    skipped = first % 4
    bits = np.random.Philox(key=key, counter=[first // 4, step, 0, 0]).random_raw(n + skipped)[skipped:]
    return (bits >> np.uint64(11)) * 2.0**-53


def derived_seed(seed: int, *position: int | str) -> int:
    """Return a 63-bit seed for one use at one position, such as `derived_seed(0, "mask", step, shard)`.

    Args:
        seed: the user's seed.
        *position: what the draw belongs to: names and non-negative numbers.
    """
    import zlib

    import numpy as np

    words = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in position]
    return int(np.random.SeedSequence([seed % 2**64, *words]).generate_state(1, np.uint64)[0] >> 1)
