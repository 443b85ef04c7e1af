"""The reader."""

from pathlib import Path

import numpy as np

from r2mae_core import UserError, reading


def read_rows(path: Path) -> np.ndarray:
    """Return the rows of a .npy file, (n, features) float32.

    Raises:
        UserError: the file is missing, is not a table of numbers, or has a value that is NaN or infinite.
    """
    with reading(path, "a .npy file of numbers"):
        rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.dtype.kind not in "iuf":
        raise UserError(f"{path} must be a table of numbers, (n, features), got {rows.dtype} of shape {rows.shape}")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(
            f"{path}: {len(bad)} rows have a NaN or infinite value, the first of them row {bad[0]}; fix them"
        )
    return rows.astype(np.float32)
