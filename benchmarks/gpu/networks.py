"""The pretraining of each package that the GPU run checks and times: its options, and one step of it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.overrides import TorchFunctionMode

from r2mae_core import MaskDraw, MaskedModule, Modality, PretrainOptions, StepOrder, quiet_lightning

PACKAGES = ("text", "vision", "dna", "singlecell")


@dataclass(frozen=True)
class Size:
    """A network at one size, the samples of its step, and the rate that is hoped for on one H100."""

    name: str
    batch: int
    options: dict[str, Any]
    target: float | None = None


TINY = {
    "text": Size("tiny", 8, {"model": "tiny", "model_args": {"num_hidden_layers": 1}, "length": 32}),
    "vision": Size(
        "ViT of 24",
        8,
        {
            "model": "vit_tiny_patch16_224",
            "model_args": {"depth": 1, "embed_dim": 24, "num_heads": 3},
            "image_size": 8,
            "patch_size": 2,
            "decoder_dim": 16,
            "decoder_depth": 1,
            "decoder_heads": 2,
        },
    ),
    "dna": Size("1 × 160", 8, {"model": "tiny", "n_hidden": 160, "n_layers": 1, "n_heads": 2}),
    "singlecell": Size("24/6", 8, {"n_hidden": 24, "n_latent": 6}),
}
CHECKED = {
    "text": Size("medium", 8, {"model": "medium"}),
    "vision": Size("ViT-B/16", 4, {"model": "vit_base_patch16_224"}),
    "dna": Size("base", 8, {"model": "base"}),
    "singlecell": Size("1024/512", 100, {"n_hidden": 1024, "n_latent": 512}),
}
TIMED = {
    "text": [
        Size("RoBERTa-medium", 512, {"model": "medium", "pad_vocab_to": 64}, 1.5e6),
        Size("RoBERTa-base", 256, {"model": "base", "pad_vocab_to": 64}, 600e3),
    ],
    "vision": [Size("ViT-B/16", 256, {"model": "vit_base_patch16_224"}, 5000.0)],
    "dna": [Size("GPN-MSA's size", 512, {"model": "base"}, 5000.0)],
    "singlecell": [Size("1024/512", 400, {"n_hidden": 1024, "n_latent": 512}, 200e3)],
}
UNITS = {"text": "tokens", "vision": "images", "dna": "windows", "singlecell": "cells"}
RATIOS = {"text": 0.275, "vision": 0.75, "dna": 0.175, "singlecell": 0.3}
"""The mean of R2MAE's range, or the usual fixed ratio: what a step is timed at."""


def pretraining(package: str, size: Size, home: Path, tiny: bool, **changes: Any) -> tuple[type[Modality], Any]:
    """Return a package's modality and the options of a short pretraining, with its data prepared in `home`.

    The data is small, bundled with the package or simulated; dropout is off, so that devices can be compared.
    """
    modality, options, own = {"text": _text, "vision": _vision, "dna": _dna, "singlecell": _cells}[package](home, tiny)
    common = {"batch_size": size.batch, "micro_batch_size": size.batch, "progress": False, "mask_ratio": "r2mae"}
    config = options(own.pop("data"), **{**common, **own, **size.options, **changes})
    return modality, config


def _text(home: Path, tiny: bool) -> tuple[type[Modality], Any, dict[str, Any]]:
    from r2mae_text.data.movies import read_movies
    from r2mae_text.data.prepare import prepare
    from r2mae_text.options import Prepare, Pretrain
    from r2mae_text.pretrain import TextPretraining

    sentences, corpus = home / "sentences.txt", home / "corpus"
    if not corpus.exists():
        sentences.write_text("".join(f"{text}\n" for text, _ in read_movies()["train"]), encoding="utf-8")
        tokenizer = {"vocab_size": 300} if tiny else {"tokenizer": "gpt2"}
        prepare(Prepare((sentences,), document="line", workers=0, out=corpus, progress=False, **tokenizer))
    return TextPretraining, Pretrain, {"data": corpus, "steps": 6, "dropout": 0.0}


def _vision(home: Path, tiny: bool) -> tuple[type[Modality], Any, dict[str, Any]]:
    from r2mae_vision.mae.options import Pretrain
    from r2mae_vision.mae.pretrain import VisionModality

    # Crops are cut in another way on a GPU, so there are none where devices are compared.
    own = {"epochs": 1, "augment": "none", "workers": 0}
    return VisionModality, Pretrain, {"data": "digits" if tiny else "photographs", **own}


def _dna(home: Path, tiny: bool) -> tuple[type[Modality], Any, dict[str, Any]]:
    from r2mae_dna.data.build import build_alignment
    from r2mae_dna.data.samples import VERTEBRATES, sample_path
    from r2mae_dna.data.windows import prepare
    from r2mae_dna.options import Prepare, Pretrain
    from r2mae_dna.pretrain import DnaModality

    store, windows = home / "store.zarr", home / "windows"
    if not windows.exists():
        build_alignment([sample_path(VERTEBRATES)], store, reference="mm9")
        side = 32 if tiny else 128
        prepare(
            Prepare(store, out=windows, window=side, step=side // 4, validation_regions="chr10:3,220,001-3,237,798")
        )
    return DnaModality, Pretrain, {"data": windows, "steps": 6, "dropout": 0.0, "max_windows": 32}


def _cells(home: Path, tiny: bool) -> tuple[type[Modality], Any, dict[str, Any]]:
    from r2mae_singlecell import Simulation, prepare_atlas, simulate_atlas
    from r2mae_singlecell.options import Pretrain
    from r2mae_singlecell.pretrain import SingleCells

    prepared, n_genes = home / "prepared.h5ad", 40 if tiny else 5000
    if not prepared.exists():
        n_cells = 120 if tiny else 2000
        simulate_atlas(Simulation(n_donors=20, n_cells=n_cells, n_genes=n_genes)).write_h5ad(home / "atlas.h5ad")
        prepare_atlas(home / "atlas.h5ad", prepared, n_genes=n_genes, min_genes=0, progress=False)
    return SingleCells, Pretrain, {"data": prepared, "epochs": 1}


@dataclass
class Step:
    """One optimizer step on one batch, which stays on the device.

    Args:
        module: the untrained module, on the device.
        batch: of `n` samples, on the device.
        n: samples.
        task: the modality that built it.
    """

    module: MaskedModule
    batch: Any
    n: int
    task: Modality

    @classmethod
    def build(cls, modality: type[Modality], config: PretrainOptions, device: str) -> "Step":
        """Return the step of a pretraining; its weights depend on the seed alone, not on the device."""
        with quiet_lightning(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = modality(config)
            order = StepOrder(
                task.n_samples, min(task.batch_size, task.n_samples), min(task.batch_size, task.n_samples)
            )
            module = task.build(task.sampler()).to(device).train()
            batch = repeated(next(iter(task.loader(order, "cpu"))), config.batch_size)
        return cls(module, move_data_to_device(batch, device), config.batch_size, task)

    def loss(self, ratio: float, generator: torch.Generator) -> torch.Tensor:
        """Return the loss at a ratio."""
        return self.module.masked_loss(self.batch, MaskDraw(ratio, generator))

    def runner(self, ratio: float, bf16: bool) -> Callable[[], None]:
        """Return a function that makes one optimizer step: masks, forward, backward, AdamW."""
        device = next(self.module.parameters()).device
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-5, fused=True)
        generator = torch.Generator(device).manual_seed(0)

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                value = self.loss(ratio, generator)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        return run


def repeated(batch: Any, n: int) -> Any:
    """Return a batch of n samples, repeated if it has fewer; what is not a tensor must have enough."""
    if isinstance(batch, torch.Tensor):
        return batch if len(batch) == n else batch[torch.arange(n) % len(batch)]
    if isinstance(batch, dict):
        return {name: repeated(value, n) for name, value in batch.items()}
    if type(batch) in (list, tuple):
        return type(batch)(repeated(value, n) for value in batch)
    return batch


class DrawnOnCpu(TorchFunctionMode):
    """Within it, whatever would be drawn from a generator is drawn from one on the CPU, and moved: equal masks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is None:
            return func(*args, **kwargs)
        device = kwargs.pop("device", "cpu")
        return func(*args, **{**kwargs, "generator": self.generator, "device": "cpu"}).to(device)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32, which rounds the factors of products and convolutions to 10 bits."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
