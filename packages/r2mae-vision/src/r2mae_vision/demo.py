"""`r2mae-vision demo`: every scheme side by side on small real images, in one stack; or one ViT on photographs."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import (
    Fixed,
    Record,
    RunFolder,
    check_output,
    device_name,
    open_run,
    refuse_options,
    report,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    stamped,
    with_seed,
)
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.mnist.data import load_digits_or_mnist
from r2mae_vision.mnist.evaluate import evaluate_members
from r2mae_vision.mnist.plots import plot_demo
from r2mae_vision.mnist.pretrain import Member, pretrain_members
from r2mae_vision.options import Demo, Pretrain, Reconstruct

# The paper's vision schemes (table 1), and the fixed ratios that draw the curve.
SCHEMES = ("fixed", "low", "high", "mdlm", "dynamic", "r2mae", "r2mae+dynamic")
CURVE = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)


def demo(config: Demo) -> RunFolder:
    """Run the demo that was asked for and return its run folder."""
    return demo_vit(config) if config.model == "vit" else demo_mlp(config)


def demo_mlp(config: Demo) -> RunFolder:
    """Pretrain every scheme, evaluate it, print the table, draw the figure, and return the run folder."""
    start = time.perf_counter()
    device = resolve_device(config.device)
    if config.out is not None:
        check_output(config.out, [config.data])
    data = load_digits_or_mnist(config.data, config.download)
    settings = resolved(config)
    with open_run("r2mae-vision", "demo", config.out, settings, sources=data.identity, free=("data",)) as run:
        samplers = [*(scheme(name, "vision") for name in SCHEMES), *map(Fixed, CURVE)]
        members = [
            Member(scheme_name(sampler, "vision"), with_seed(sampler, seed), seed)
            for seed in config.seeds
            for sampler in samplers
        ]
        say(
            f"{len(members)} masked autoencoders ({len(samplers)} ratio schemes × {len(config.seeds)} seeds) on "
            f"{len(data.train_images)} images of {data.name}, all trained together on {device_name(device)}"
        )
        model = pretrain_members(
            data,
            members,
            run,
            hidden=config.n_hidden,
            epochs=config.epochs,
            batch_size=config.batch_size,
            lr=config.lr,
            device=device,
            progress=config.progress,
        )
        names = [member.scheme for member in members]
        records = evaluate_members(
            model, data, names, epochs=config.epochs, pretrain_seconds=time.perf_counter() - start, device=device
        )
        shown = names[: len(SCHEMES)]
        title = f"{data.name}: {len(data.test_images)} test images"
        report(run, [record for record in records if record.scheme in shown], RANK_BY, title)
        run.write_results(records)
        figure = run.save_figure("demo.png", plot_demo(records, model, data.to(device), names, shown))
        say("probe_accuracy: linear probe on the frozen second layer. effective_rank: dimensions that embeddings use.")
        say("loss@r: squared error on hidden pixels when a fraction r is hidden, with the same masks for every scheme.")
        say(f"Figure: {figure}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
        return run


VIT: dict[str, Any] = {
    "data": "photographs",
    "model": "vit_tiny_patch16_224",
    "model_args": {"depth": 4, "embed_dim": 128, "num_heads": 4},
    "image_size": 64,
    "patch_size": 8,
    "decoder_dim": 64,
    "decoder_depth": 2,
    "decoder_heads": 2,
    "norm_pix_loss": False,  # pixels themselves: their colours can be looked at
    "batch_size": 64,
    "lr": 1e-3,
    "crop_scale": (0.3, 1.0),
}
VIT_RATIOS = (0.5, 0.75, 0.9)


def demo_vit(config: Demo) -> RunFolder:
    """Pretrain a small ViT on the left of two photographs, show how it fills in the right, and return the run folder.

    The table holds the mean squared error on hidden pixels of the parts that the model never saw, beside that of the
    visible pixels' mean colour.
    """
    from r2mae_vision.mae.pretrain import pretrain
    from r2mae_vision.mae.reconstruct import reconstruct

    only_mlp = ("data", "download", "n_hidden", "seeds", "batch_size", "lr")
    refuse_options(config, dict.fromkeys(only_mlp, "--model mlp"), "--model vit")
    start = time.perf_counter()
    device = resolve_device(config.device)
    with open_run("r2mae-vision", "demo", config.out, resolved(config)) as run:
        options = Pretrain(
            **VIT,
            mask_ratio="r2mae",
            epochs=config.epochs,
            device=config.device,
            out=run.path / "pretrain",
            progress=config.progress,
        )
        say(f"A small ViT on the left four fifths of two photographs, on {device_name(device)}")
        pretrained = pretrain(options)
        title = "the right fifth of the photographs: mean squared error on hidden pixels (0 ... 1)"
        report(run, stamped(photograph_errors(pretrained.path, device), device_name(device)), RANK_BY, title)
        target = run.path / "figures" / "demo.png"
        figure = reconstruct(Reconstruct(pretrained.path, device=config.device, out=target, overwrite=True))
        say(f"Figure: {figure}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
        return run


def photograph_errors(pretrained: Path, device: str) -> list[Record]:
    """Return the error on hidden pixels of the photographs' right fifth, the model's and the visible mean colour's."""
    import torch

    from r2mae_vision.data.augment import resize
    from r2mae_vision.data.sources import open_source
    from r2mae_vision.mae.reconstruct import reconstructions
    from r2mae_vision.mae.weights import load_mae

    model, store = load_mae(pretrained).to(device), open_source("photographs", "val")
    images = resize(store.fetch(np.arange(len(store)))[0].to(device), model.shape.image_size)  # pyright: ignore[reportAttributeAccessIssue]
    truth, records = images / 255, []
    for ratio, (hidden, filled) in zip(VIT_RATIOS, reconstructions(model, images, VIT_RATIOS), strict=True):
        mask = hidden[:, None].expand_as(truth)
        mean = (truth * ~mask).sum((2, 3), keepdim=True) / (~mask).sum((2, 3), keepdim=True)
        for name, picture in (("r2mae", filled), ("mean visible colour", mean.expand_as(truth))):
            error = torch.square(picture - truth)[mask].mean().item()
            records.append(Record("photographs", f"mse@{ratio:g}", error, name, 0, len(store), "validation"))
    return records
