"""The MNIST experiment: data on the device and stacked models, against the obvious program.

The obvious program is torchvision's MNIST with ToTensor, a DataLoader, nn.Sequential and a plain loop; with zero and
with two workers, of which the better counts. Ours is the package's own path, Lightning included.

Run: `nox -s "bench(vision)" -- --data DIR` with the four MNIST files in DIR; without --data, random images of the same
size are used (timings do not depend on the pixels' values). On a GPU add --device cuda.
"""

import argparse
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import Seconds, best_of_turns, report
from torch import nn
from torchvision import transforms
from torchvision.datasets import MNIST

from r2mae_core import BatchOrder, Fixed, ResumableLoader, RunFolder, device_name, resolve_device, with_seed
from r2mae_vision import Member, load_images, pretrain_members

BATCH, HIDDEN, RATIO = 128, (512, 64), 0.5


def mnist_folder(root, scratch):
    """Return a folder with the files where torchvision looks for them."""
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    raw = scratch / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, n in zip(names, [60_000, 60_000, 10_000, 10_000], strict=True):
        if root is not None:
            (raw / name).symlink_to((root / name).resolve())
            continue
        shape = (n, 28, 28) if "images" in name else (n,)
        content = rng.integers(0, 10 if "labels" in name else 256, shape, dtype=np.uint8)
        (raw / name).write_bytes(
            bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content.tobytes()
        )
    return scratch


def obvious_loader(folder, workers):
    flat = transforms.Compose([transforms.ToTensor(), torch.flatten])
    data = MNIST(str(folder), transform=flat)
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True)


def obvious_epoch(loader, device):
    h1, h2 = HIDDEN
    net = nn.Sequential(
        nn.Linear(784, h1), nn.BatchNorm1d(h1), nn.ReLU(), nn.Linear(h1, h2), nn.BatchNorm1d(h2), nn.ReLU(),
        nn.Linear(h2, 784), nn.Sigmoid(),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    start = time.perf_counter()
    for images, _ in loader:
        images = images.to(device)
        noise = torch.rand(images.shape, device=device)
        mask = noise.argsort(dim=1).argsort(dim=1) < round(RATIO * 784)
        loss = ((net(images * ~mask) - images) ** 2 * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def our_epochs(data, device, n_models, epochs):
    members = [Member(str(i), with_seed(Fixed(RATIO), i), 0) for i in range(n_models)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pretrain_members(
            data, members, RunFolder(Path(folder) / "run", {}), hidden=HIDDEN, epochs=epochs, batch_size=BATCH,
            device=device, progress=False,
        )  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of MNIST's four files; default: random images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", type=int, default=12, help="models in the stack")
    options = parser.parse_args()
    device = resolve_device(options.device)
    print(f"{device_name(device)}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = mnist_folder(options.data, Path(scratch))
        data = load_images("mnist", folder).to(device)
        order = BatchOrder(60_000, BATCH)
        ours = ResumableLoader(
            order, lambda indices: data.scale(data.train_images[torch.from_numpy(indices).to(device)])
        )
        loaders = {f"torchvision + DataLoader, {w} workers": obvious_loader(folder, w) for w in (0, 2)}

        def consume(loader):
            for batch in loader:
                images = batch[0] if isinstance(batch, list) else batch
                images.to(device)

        wait = torch.cuda.synchronize if device == "cuda" else None
        contestants = {"ours": lambda: consume(ours)}
        contestants |= {name: lambda loader=loader: consume(loader) for name, loader in loaders.items()}
        report(
            "Data path alone, one epoch",
            best_of_turns(contestants, 3, wait),
            "ours",
            1.0,
            "s",
            dict.fromkeys(loaders, 20),
        )

        # Whole epochs; ours by difference, so that Lightning's start-up is not part of an epoch.
        turns = {"ours, one model": [], f"ours, per model of {options.models}": [], **{name: [] for name in loaders}}
        for _ in range(3):
            for name, n in ((("ours, one model"), 1), (f"ours, per model of {options.models}", options.models)):
                turns[name].append((our_epochs(data, device, n, 2) - our_epochs(data, device, n, 1)) / n)
            for name, loader in loaders.items():
                turns[name].append(obvious_epoch(loader, device))
        medians = {name: Seconds(values) for name, values in turns.items()}
        report(
            "Whole training epoch of a 784-512-64-784 autoencoder",
            medians,
            "ours, one model",
            1.0,
            "s",
            dict.fromkeys(loaders, 1.6),
        )


if __name__ == "__main__":
    main()
