"""Digests of arrays: what names data and weights wherever they lie."""

import hashlib

import numpy as np


def identity_of_arrays(*arrays: np.ndarray) -> str:
    """Return a digest of arrays: their types, shapes and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
