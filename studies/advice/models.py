"""Pretrain a real model with a sampler and evaluate it downstream, with the package's own evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from r2mae_core import RatioSampler, RunFolder, with_seed

Cell = tuple[str, int, float]
"""Name of the sampler, seed, score."""


def digits(samplers: dict[str, RatioSampler], seeds: Sequence[int], work: Path, share: float = 1.0) -> Iterator[Cell]:
    """The demo's MLP autoencoders, all in one stack; a linear probe on the second layer, 450 test digits."""
    from r2mae_vision.mnist.data import load_images
    from r2mae_vision.mnist.evaluate import evaluate_members
    from r2mae_vision.mnist.pretrain import Member, pretrain_members

    data = load_images("digits")
    members = [Member(name, with_seed(sampler, seed), seed) for seed in seeds for name, sampler in samplers.items()]
    run = RunFolder(work / "stack", {"members": [f"{m.scheme} {m.seed}" for m in members]})
    recipe = {"epochs": round(40 * share), "batch_size": 64, "lr": 3e-3}
    model = pretrain_members(data, members, run, hidden=(128, 64), device="cpu", progress=False, **recipe)
    for record in evaluate_members(model, data, [m.scheme for m in members], epochs=40):
        if record.metric == "probe_accuracy":
            yield record.scheme, record.seed, record.value


def cifar10(samplers: dict[str, RatioSampler], seeds: Sequence[int], work: Path, share: float = 1.0) -> Iterator[Cell]:
    """A ViT of 4 layers × 64 on 5,000 images; logistic regression on the patches' mean, 10,000 test images."""
    from r2mae_vision.mae.pretrain import pretrain
    from r2mae_vision.mae.probe import probe
    from r2mae_vision.options import Pretrain, Probe

    options = Pretrain(
        str(work / "data"), model="vit_tiny_patch16_224", image_size=32, patch_size=4, decoder_dim=32, decoder_depth=1,
        model_args={"depth": 4, "embed_dim": 64, "num_heads": 2}, decoder_heads=1, batch_size=128, lr=1e-3,
        epochs=round(5 * share), crop_scale=(0.4, 1.0), device="cpu", progress=False,
    )  # fmt: skip
    for seed, name, sampler in cells(samplers, seeds):
        home = work / f"{name}-{seed}"
        run = pretrain(replace(options, mask_ratio=sampler, seed=seed, out=home / "pretrain"))
        probed = probe(
            Probe(str(run.path), pool="avg", crop_pct=1.0, k=(), device="cpu", out=home / "probe", progress=False)
        )
        yield name, seed, next(r.value for r in probed.results() if r.metric == "linear_top1")


def pbmc(samplers: dict[str, RatioSampler], seeds: Sequence[int], work: Path, share: float = 1.0) -> Iterator[Cell]:
    """The demo's autoencoder on 700 blood cells; balanced accuracy of a linear probe of cell types, 3 folds."""
    from r2mae_core import run_pretraining
    from r2mae_singlecell.data.pbmc import load_pbmc
    from r2mae_singlecell.demo import TASK, BloodCells, probe_cells
    from r2mae_singlecell.options import Pretrain
    from r2mae_singlecell.pretrain import load_run

    adata = load_pbmc()
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    options = Pretrain(
        Path(TASK), epochs=round(60 * share), batch_size=64, n_hidden=128, n_latent=64, device="cpu", progress=False
    )  # fmt: skip
    for seed, name, sampler in cells(samplers, seeds):
        run = run_pretraining(BloodCells, replace(options, mask_ratio=sampler, seed=seed, out=work / f"{name}-{seed}"))
        model = load_run(run.path, adata, "cpu")
        yield name, seed, probe_cells(model.get_latent_representation(), labels, name, seed)[0].value


def apes(samplers: dict[str, RatioSampler], seeds: Sequence[int], work: Path, share: float = 1.0) -> Iterator[Cell]:
    """The demo's network on human and three apes; AUROC of rare against common variants of the other half."""
    from r2mae_dna.bundled import Bundled, small_recipe

    bundled = Bundled.prepare(work, 128, "cpu")
    for seed, name, sampler in cells(samplers, seeds):
        options = small_recipe(
            bundled.data, round(100 * share), mask_ratio=sampler, seed=seed, device="cpu", progress=False
        )
        records = bundled.pretrain(options, work / f"{name}-{seed}")
        yield name, seed, next(r.value for r in records if r.metric == "auroc")


def words(samplers: dict[str, RatioSampler], seeds: Sequence[int], work: Path, share: float = 1.0) -> Iterator[Cell]:
    """A RoBERTa of one layer on speeches and film sentences; accuracy on 1,568 rated ones, fine-tuned on 2,000."""
    from r2mae_core import write_text
    from r2mae_text.data.movies import read_movies
    from r2mae_text.data.prepare import prepare
    from r2mae_text.finetune import finetune
    from r2mae_text.options import Finetune, Prepare, Pretrain
    from r2mae_text.pretrain import pretrain

    write_text(work / "film-sentences.txt", "".join(f"{text}\n" for text, _ in read_movies()["train"]))
    corpus = prepare(
        Prepare(
            (Path("sotu"), work / "film-sentences.txt"), vocab_size=1500, document="line", validation_share=0.02,
            out=work / "sotu+movies", progress=False,
        )
    )  # fmt: skip
    options, steps = Pretrain(corpus.path, length=32, device="cpu", progress=False), round(1500 * share)
    options = replace(
        options, model="tiny", model_args={"num_hidden_layers": 1, "initializer_range": 0.05}, lr=2e-3, dropout=0.0,
        position_start="sinusoidal", steps=steps, batch_size=32, micro_batch_size=32,
        validate_every=max(steps // 8, 1), checkpoint_every=max(steps // 2, 1),
    )  # fmt: skip
    for seed, name, sampler in cells(samplers, seeds):
        home = work / f"{name}-{seed}"
        run = pretrain(replace(options, mask_ratio=sampler, seed=seed, out=home / "pretrain"))
        tuned = Finetune(
            str(run.path), ("movies",), seeds=(seed,), epochs=3, max_train=2000, max_length=32, lr=5e-4, warmup=0.1,
            device="cpu", out=home / "finetune", progress=False, keep="none", evaluate="end",
        )  # fmt: skip
        yield name, seed, float(np.mean([r.value for r in finetune(tuned).results() if r.metric == "accuracy"]))


def cells(samplers: dict[str, RatioSampler], seeds: Sequence[int]) -> Iterator[tuple[int, str, RatioSampler]]:
    """Yield seed, name and sampler with that seed, seed by seed, so that an interrupted study is balanced."""
    for seed in seeds:
        for name, sampler in samplers.items():
            yield seed, name, with_seed(sampler, seed)
