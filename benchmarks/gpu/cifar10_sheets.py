"""CIFAR-10's binary files as JPEG sheets of 100 × 100 images, colours not subsampled, so that they fit into 30 MB.

    python benchmarks/gpu/cifar10_sheets.py BINARIES OUT

Prints the mean error of a pixel: the results on these images say that they are not the original ones.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 80


def pack(binaries: Path, out: Path) -> None:
    """Write a sheet and its labels for each binary file."""
    errors = []
    for file in sorted(binaries.glob("*.bin")):
        rows = np.fromfile(file, np.uint8).reshape(10_000, 3073)
        sheet = rows[:, 1:].reshape(100, 100, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(3200, 3200, 3)
        path = out / f"{file.stem}.jpg"
        Image.fromarray(sheet).save(path, quality=QUALITY, subsampling=0, optimize=True)
        errors.append(np.abs(np.asarray(Image.open(path)).astype(int) - sheet).mean())
        (out / f"{file.stem}.labels").write_bytes(rows[:, 0].tobytes())
    shutil.copy(binaries / "batches.meta.txt", out)
    print(f"CIFAR-10 as JPEG of quality {QUALITY}: mean error {np.mean(errors):.2f} of 255")


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
