"""The CelebA experiment: decoded once and read from memory, against the obvious program.

The obvious program reads a folder of JPEGs with torchvision's ImageFolder, Resize and ToTensor through a DataLoader,
and trains the same U-Net in channels_first with a mask by argsort and plain Adam; with zero and with --workers workers.
Ours: the package's uint8 store, batch reader, mask and loss, channels_last, fused Adam. Lightning is left out of both.
Both use the same precision. The images are simulated, 178 x 218 as CelebA's; preparing them is timed separately.

Run: `nox -s "bench(vision)" -- --device cpu`. On a GPU:
`--device cuda --images 8192 --batch 256 --channels 32 --precision bf16 --workers 8`.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import best_of_turns, report
from torchvision import transforms
from torchvision.datasets import ImageFolder

from r2mae_core import BatchOrder, Fixed, MaskDraw, device_name, resolve_device
from r2mae_vision import UNet, prepare_celeba
from r2mae_vision.celeba.lists import N_ATTRIBUTES
from r2mae_vision.celeba.model import scale
from r2mae_vision.celeba.pretrain import UNetPretraining, batch_reader

RATIO = 0.5


def write_images(folder, n):
    """Write smooth coloured noise as JPEGs of CelebA's size, with CelebA's lists; the last 16 are the test split."""
    rng = np.random.default_rng(0)
    images = folder / "img_align_celeba"
    images.mkdir(parents=True)
    files = [f"{i + 1:06d}.jpg" for i in range(n + 16)]
    for file in files:
        coarse = Image.fromarray(rng.integers(0, 256, (28, 23, 3), dtype=np.uint8))
        coarse.resize((178, 218), Image.Resampling.BICUBIC).save(images / file, quality=90)
    names = " ".join(f"attribute_{i}" for i in range(N_ATTRIBUTES))
    rows = [f"{file} " + " ".join(["-1"] * N_ATTRIBUTES) for file in files]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(files)), names, *rows]) + "\n")
    split = [f"{file} {0 if i < n else 2}" for i, file in enumerate(files)]
    (folder / "list_eval_partition.txt").write_text("\n".join(split) + "\n")


def our_epoch(store, options, device):
    module = UNetPretraining(UNet(options.channels), Fixed(RATIO)).to(device)
    optimizer = module.configure_optimizers()
    generator = torch.Generator(device)
    fetch = batch_reader(store.images("train"), device)
    order = BatchOrder(store.counts["train"], options.batch)

    def read():
        for position in range(order.n_batches()):
            scale(fetch(order.batch(position)))  # float, as in the other program

    def epoch():
        for position in range(order.n_batches()):
            batch = fetch(order.batch(position))
            with torch.autocast(device, torch.bfloat16, enabled=options.precision == "bf16"):
                loss = module.masked_loss(batch, MaskDraw(RATIO, generator.manual_seed(position)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return read, epoch


def obvious_epoch(root, options, device, workers):
    transform = transforms.Compose([transforms.Resize((options.side, options.side)), transforms.ToTensor()])
    data = torch.utils.data.Subset(ImageFolder(str(root), transform), range(options.images))
    loader = torch.utils.data.DataLoader(
        data, options.batch, shuffle=True, num_workers=workers, drop_last=True, pin_memory=device == "cuda",
        persistent_workers=workers > 0,
    )  # fmt: skip
    net = UNet(options.channels).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    hidden = round(RATIO * options.side**2)

    def read():
        for images, _ in loader:
            images.to(device)

    def epoch():
        for images, _ in loader:
            images = images.to(device)
            noise = torch.rand(len(images), options.side**2, device=device)
            mask = (noise.argsort(1).argsort(1) < hidden).view(-1, 1, options.side, options.side)
            with torch.autocast(device, torch.bfloat16, enabled=options.precision == "bf16"):
                answer = net(images * ~mask)
            loss = ((answer - images) ** 2 * mask).sum() / (3 * mask.sum())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return read, epoch


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--workers", type=int, default=2, help="workers of the obvious program's second DataLoader")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = resolve_device(options.device)
    print(f"{device_name(device)}, torch {torch.__version__}, {vars(options)}")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "celeba"
        write_images(root, options.images)
        start = time.perf_counter()
        store = prepare_celeba(root, Path(scratch) / "cache", side=options.side, progress=False)
        print(f"Preparing, once: {(options.images + 16) / (time.perf_counter() - start):.0f} images/s")
        contestants = {"ours": our_epoch(store, options, device)}
        for workers in dict.fromkeys((0, options.workers)):
            contestants[f"ImageFolder + DataLoader, {workers} workers"] = obvious_epoch(root, options, device, workers)
        wait = torch.cuda.synchronize if device == "cuda" else None
        n = options.images // options.batch * options.batch
        for i, title in enumerate(("Data path alone", "Training")):
            turns = {name: functions[i] for name, functions in contestants.items()}
            seconds = best_of_turns(turns, options.rounds, wait)
            report(f"{title}, {n} images", seconds, "ours")
            print("\nimages/s: " + ", ".join(f"{name} {n / value:,.0f}" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
