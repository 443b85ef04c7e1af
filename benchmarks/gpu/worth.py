"""Trainings that a CPU cannot do in the time: is pretraining worth it, and which scheme, on data that people know.

vision: CIFAR-10 with timm's ViT-tiny (patches of 4 pixels), trained with labels from scratch, and fine-tuned and probed
after pretraining at 0.75 and with R2MAE.
text: RoBERTa-small on the presidents' messages that the demo takes (12 MB), its frozen states probed by its tasks,
untrained and after pretraining at 0.15 and with R2MAE.

Seed after seed, as many as fit into the time; of the last, what is finished.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from PIL import Image
from rows import Part, main

NONE = "no pretraining"
SCHEMES: dict[str, tuple[str | float, ...]] = {"vision": (0.75, "r2mae"), "text": (0.15, "r2mae")}
CIFAR10 = Path(__file__).parent / "pack" / "cifar10"
"""Sheets of 10,000 images, one JPEG each, and the labels; `pack.sh` writes them."""
VIT = {
    "model": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 4, "decoder_dim": 128, "decoder_depth": 2,
    "decoder_heads": 4, "crop_scale": (0.4, 1.0),
}  # fmt: skip
EPOCHS = {"pretrain": 60, "finetune": 15}


def vision(part: Part) -> None:
    """Train ViTs on CIFAR-10."""
    from r2mae_vision.mae.finetune import finetune
    from r2mae_vision.mae.model_options import Probe
    from r2mae_vision.mae.options import Finetune, Pretrain
    from r2mae_vision.mae.pretrain import pretrain
    from r2mae_vision.mae.probe import probe

    common = {"device": part.device, "progress": False}
    if part.tiny:
        data, epochs, batch, workers = "digits", {"pretrain": 1, "finetune": 1}, 128, 0
        shape = {**VIT, "model_args": {"depth": 1, "embed_dim": 24, "num_heads": 3}, "image_size": 8, "patch_size": 2}
        shape |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    else:
        data, epochs, batch, workers, shape = str(unpacked_cifar10(part.home)), EPOCHS, 1024, None, VIT

    def measured(scheme: str | float, seed: int) -> dict[str, float]:
        home = part.home / f"{scheme}-{seed}".replace(" ", "-")
        ratio = 0.75 if scheme == NONE else scheme
        one = 1 if scheme == NONE else epochs["pretrain"]  # its weights are not used
        options: dict[str, Any] = {
            **shape,
            **common,
            "workers": workers,
            "batch_size": batch,
            "base_lr": 3e-4,
            "seed": seed,
        }
        run = pretrain(Pretrain(data, mask_ratio=ratio, epochs=one, out=home / "pretrain", **options))
        model = f"scratch:{run.path}" if scheme == NONE else str(run.path)
        tuned = Finetune(
            model, data=data, epochs=epochs["finetune"], warmup=0.2, batch_size=min(batch, 512), base_lr=1e-3,
            layer_decay=0.75 if scheme != NONE else 1.0, crop_scale=(0.4, 1.0), crop_pct=1.0, auto_augment="none",
            seeds=(seed,), workers=workers, out=home / "finetune", **common,
        )  # fmt: skip
        found = {"fine-tuned, top-1": top1(finetune(tuned).results())}
        if scheme != NONE:
            probed = Probe(
                model, data=data, pool="avg", crop_pct=1.0, seeds=(seed,), workers=workers, out=home / "probe", **common
            )
            found["linear probe, top-1"] = top1(probe(probed).results())
        return found

    note = f"ViT-tiny, {epochs['pretrain']} epochs of pretraining, {epochs['finetune']} of fine-tuning"
    over_seeds(part, "digits" if part.tiny else "CIFAR-10", note, measured)


def text(part: Part) -> None:
    """Train RoBERTa-small on the messages of presidents."""
    from r2mae_text.data.prepare import prepare
    from r2mae_text.data.shards import Corpus
    from r2mae_text.data.sources import sotu_files
    from r2mae_text.demo_probe import probe_model
    from r2mae_text.demo_tasks import write_tasks
    from r2mae_text.options import Prepare, Pretrain
    from r2mae_text.pretrain import pretrain
    from r2mae_text.weights import load_pretrained, start_model

    files = sotu_files()
    files = files[:16] if part.tiny else files
    held_out, vocabulary, steps, labels = files[4::8], 300 if part.tiny else 8192, 4 if part.tiny else 3000, 2000
    corpus, tasks = part.home / "messages", part.home / "tasks"
    if not tasks.exists():
        sources = tuple(file for file in files if file not in held_out)
        prepare(Prepare(sources, vocab_size=vocabulary, validation_share=0.02, workers=0, out=corpus, progress=False))
        write_tasks(held_out, tasks, 40 if part.tiny else labels, 40 if part.tiny else labels)

    def measured(scheme: str | float, seed: int) -> dict[str, float]:
        options = Pretrain(
            corpus, mask_ratio=0.15 if scheme == NONE else scheme, model="tiny" if part.tiny else "small",
            position_start="sinusoidal", dropout=0.0, length=32 if part.tiny else 128, steps=steps,
            batch_size=8 if part.tiny else 256, micro_batch_size=8 if part.tiny else 256, lr=1e-3, seed=seed,
            device=part.device, out=part.home / f"{scheme}-{seed}".replace(" ", "-"), progress=False,
        )  # fmt: skip
        if scheme == NONE:
            encoder, tokenizer = start_model(options, Corpus.open(corpus)).base_model, Corpus.open(corpus).tokenizer
        else:
            encoder, tokenizer = load_pretrained(pretrain(options).path, "AutoModel", new_head=False)
        records = probe_model(encoder, tokenizer, tasks, str(scheme), seed, part.device)
        return {f"AUROC of {record.task}": 100 * record.value for record in records}

    rows = "RoBERTa-small, rows of 128" if not part.tiny else "the smallest RoBERTa"
    over_seeds(part, "messages", f"{rows}, {steps:,} steps of pretraining", measured)


def top1(records: Any) -> float:
    """Return the accuracy among the records, in %."""
    return 100 * next(record.value for record in records if record.metric in ("top1", "linear_top1"))


def over_seeds(part: Part, data: str, note: str, measured: Callable[[str | float, int], dict[str, float]]) -> None:
    """Train every scheme with seed after seed while there is time, and write means after each training."""
    results: dict[tuple[str, str], list[float]] = {}
    slowest = 0.0
    for scheme, seed in order_of_work(SCHEMES[part.package], tiny=part.tiny):
        if part.seconds_left < 1.1 * slowest:
            break
        start = time.monotonic()
        for metric, value in measured(scheme, seed).items():
            results.setdefault((str(scheme), metric), []).append(value)
            part.add(f"{data}, {metric}, {scheme}", *spread(results[str(scheme), metric]), note=f"{note}; seed {seed}")
        slowest = max(slowest, time.monotonic() - start)
    (part.home / "results.json").write_text(json.dumps([[*key, values] for key, values in results.items()]))


def order_of_work(schemes: tuple[str | float, ...], tiny: bool) -> Iterator[tuple[str | float, int]]:
    """Yield scheme and seed, seed by seed."""
    for seed in [0] if tiny else count():
        for scheme in (NONE, *schemes):
            yield scheme, seed


def spread(values: list[float]) -> tuple[str, str]:
    """Return mean, standard deviation and number of values, and their unit."""
    if len(values) == 1:
        return f"{values[0]:.2f} (n = 1)", "%"
    return f"{mean(values):.2f} ± {stdev(values):.2f} (n = {len(values)})", "%"


def unpacked_cifar10(home: Path) -> Path:
    """Return CIFAR-10 as its official binary files, made of the sheets that travel."""
    folder = home / "cifar10"
    if not (folder / "test_batch.bin").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for sheet in sorted(CIFAR10.glob("*.jpg")):
            labels = np.frombuffer((CIFAR10 / f"{sheet.stem}.labels").read_bytes(), np.uint8)
            tiles = (
                np.asarray(Image.open(sheet))
                .reshape(100, 32, 100, 32, 3)
                .transpose(0, 2, 4, 1, 3)
                .reshape(10_000, 3072)
            )
            np.concatenate([labels[:, None], tiles], axis=1).tofile(folder / f"{sheet.stem}.bin")
        shutil.copy(CIFAR10 / "batches.meta.txt", folder)
    return folder


def train(part: Part) -> None:
    """Train what there is for a package."""
    {"vision": vision, "text": text}[part.package](part)


if __name__ == "__main__":
    main("worth", train)
