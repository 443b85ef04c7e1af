"""Randomness as a pure function of (seed, position): nothing to save, the same after a resume and on every rank.

numpy is imported inside the functions because `--help` reads the modules that use them.
"""


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
