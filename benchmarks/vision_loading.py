"""Loading of images for pretraining: prepared stores against timm's and torchvision's loaders and webdataset.

All of them deliver the same: random resized crops (0.2 to 1 of the area, bicubic) and flips, uint8, batches of 64, from
JPEGs of 500 x 375, with two worker processes; the raw store crops in this process instead, on one thread. `prepare`
is timed on the same files. Two clocks: the wall's, and that of the processors, which a busy machine does not slow much.

ffcv is not among them: PyPI has its source alone, which does not build without pkg-config's opencv4 and libturbojpeg.

Run: `nox -s "bench(vision)" -- --images 1024`
"""

import argparse
import io
import resource
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timing import Seconds
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from r2mae_core import StepOrder
from r2mae_vision.data.datasets import train_loader
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.sources import open_source
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.pretrain import device_augmentation, worker_transform
from r2mae_vision.options import Prepare

SIDE, BATCH, WORKERS = 224, 64, 2


def photographs(home, n):
    """Write n JPEGs of 500 x 375, cut out of scikit-learn's two photographs, in two classes; and a tar of them."""
    rng, pictures = np.random.default_rng(0), [Image.fromarray(image) for image in load_sample_images().images]
    with tarfile.open(home / "shard-0.tar", "w") as shard:
        for i in range(n):
            width = int(rng.integers(400, 641))
            height = min(width * 3 // 4, 427)
            left, top = (int(rng.integers(0, full - part + 1)) for full, part in ((640, width), (427, height)))
            content = io.BytesIO()
            picture = pictures[i % 2].resize((500, 375), box=(left, top, left + width, top + height))
            picture.save(content, "JPEG", quality=90)
            file = home / "images" / "train" / "ab"[i % 2] / f"{i:06d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.getvalue())
            member = tarfile.TarInfo(f"{i:06d}.jpg")
            member.size = len(content.getvalue())
            shard.addfile(member, io.BytesIO(content.getvalue()))


def timms(home):
    from timm.data import create_dataset, create_loader

    data = create_dataset("", str(home / "images" / "train"))
    loader = create_loader(
        data, (3, SIDE, SIDE), BATCH, is_training=True, use_prefetcher=False, scale=(0.2, 1.0), hflip=0.5,
        color_jitter=0.0, interpolation="bicubic", num_workers=WORKERS, persistent_workers=False, pin_memory=False,
    )  # fmt: skip
    return sum(len(images) for images, _ in loader)


def crops():
    return transforms.Compose([
        transforms.RandomResizedCrop(SIDE, (0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(), transforms.PILToTensor(),
    ])  # fmt: skip


def torchvisions(home):
    data = ImageFolder(str(home / "images" / "train"), crops())
    return sum(len(images) for images, _ in DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True))


def webdatasets(home):
    import webdataset

    data = webdataset.WebDataset(
        [str(home / f"half-{i}.tar") for i in range(WORKERS)], shardshuffle=False, nodesplitter=None
    ).shuffle(256).decode("pil").to_tuple("jpg").map_tuple(crops())  # fmt: skip
    loader = webdataset.WebLoader(data, batch_size=BATCH, num_workers=WORKERS)
    return sum(len(batch[0]) for batch in loader)


def halves(home):
    """Divide the shard, one for each of webdataset's workers."""
    with tarfile.open(home / "shard-0.tar") as shard:
        members = shard.getmembers()
        for i in range(WORKERS):
            with tarfile.open(home / f"half-{i}.tar", "w") as target:
                for member in members[i::WORKERS]:
                    target.addfile(member, shard.extractfile(member))


def ours(home, store):
    source, config = open_source(str(home / store)), Pretrain(data="x", image_size=SIDE)
    order = StepOrder(len(source), BATCH, BATCH)
    if store == "raw":
        augment, generator = device_augmentation(config), torch.Generator().manual_seed(0)
        return sum(len(augment(batch[0], generator)) for batch in train_loader(source, None, order, in_chans=3))
    loader = train_loader(source, worker_transform(config, own=True), order, in_chans=3, num_workers=WORKERS)
    try:
        return sum(len(batch[0]) for batch in loader)
    finally:
        loader.close()


def processor_seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(function):
    """Return (wall seconds, processor seconds of this process and its workers, what it returns)."""
    wall, processor = time.perf_counter(), processor_seconds()
    result = function()
    return time.perf_counter() - wall, processor_seconds() - processor, result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photographs(home, options.images)
        halves(home)
        print(f"{options.images} JPEGs of 500 x 375, {WORKERS} processes, rounds of {options.rounds}\n")
        print("| | images/s by the wall | images/s of two processors, by their time | MiB |\n|---|---|---|---|")
        settings = {"image_size": 256, "workers": WORKERS, "progress": False}
        for name, more in {"raw": {}, "jpeg": {"store": "jpeg"}}.items():
            make = partial(prepare, Prepare(str(home / "images"), out=home / name, **settings, **more))
            wall, processor, out = timed(make)
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 2**20
            rates = f"{options.images / wall:,.0f} | {2 * options.images / processor:,.0f}"
            print(f"| prepare, {name} store | {rates} | {size:,.0f} |")
        loaders = {"timm": timms, "torchvision": torchvisions, "webdataset": webdatasets}
        loaders = {name: partial(loader, home) for name, loader in loaders.items()}
        loaders |= {f"r2mae-vision, {name} store": partial(ours, home, name) for name in ("raw", "jpeg")}
        walls, processors = ({name: [] for name in loaders} for _ in range(2))
        for turn in range(options.rounds + 1):
            for name, loader in loaders.items():
                wall, processor, n = timed(loader)
                if turn:  # the first warms up
                    walls[name].append(wall / n)
                    processors[name].append(processor / n)
        walls, processors = ({name: Seconds(turns) for name, turns in some.items()} for some in (walls, processors))
        for name in loaders:
            print(f"| {name} | {1 / walls[name]:,.0f} | {2 / processors[name]:,.0f} | |")
        for store in ("raw", "jpeg"):
            ratios = (
                min(some[name] for name in ("timm", "torchvision", "webdataset")) / some[f"r2mae-vision, {store} store"]
                for some in (walls, processors)
            )
            print("\n{} store: {:.2f} times the best of the others by the wall, {:.2f} by processors".format(
                store, *ratios))  # fmt: skip


if __name__ == "__main__":
    main()
