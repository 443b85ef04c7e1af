"""The numbers of appendix C.5 as literals, against what `-c paper` and `reproduce table1` build at ImageNet's size.

C.5 states epochs, warm-up and ratios; the rest "exactly follow[s] the instructions in the MAE codebase", whose numbers
for ViT-B are written here (facebookresearch/mae: PRETRAIN.md, FINETUNE.md and the defaults of its scripts).
"""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

import r2mae_core.train.pretraining as core_pretraining
from r2mae_core import UserError, recipes
from r2mae_vision.cli import main
from r2mae_vision.mae import finetune as finetuning
from r2mae_vision.mae import inference
from r2mae_vision.mae import pretrain as pretraining
from r2mae_vision.mae.encoders import open_encoder
from r2mae_vision.mae.masking import split_patches
from r2mae_vision.mae.options import Finetune, Pretrain, Reproduce
from r2mae_vision.mae.paper import PAPER, pretrain_options

IMAGES = 1_281_167  # of ImageNet-1K's training split
PRETRAIN_STEPS = 46_800  # 150 epochs in whole batches of 4096
FINETUNE_STEPS = 125_100  # 100 epochs in whole batches of 1024


class _Steps:
    """What an optimizer asks of a trainer."""

    estimated_stepping_batches = FINETUNE_STEPS


@pytest.fixture
def call(capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four pictures of two classes."""
    root = tmp_path_factory.mktemp("imagenet")
    for part in ("train", "val"):
        for i in range(4):
            folder = root / part / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(i).integers(0, 256, (300, 400, 3), np.uint8)
            Image.fromarray(noise).save(folder / f"{i}.png")
    return root


@pytest.fixture
def built(pictures, call, monkeypatch):
    """Call a command up to the first step, on as many images as ImageNet has; returns what it hands to `fit`."""
    seen, opened, pair = {}, pretraining.open_source, finetuning.open_pair

    def stop(module, loader, run, **settings):
        seen.update(settings, module=module, loader=loader)
        raise UserError("stopped before the first step")

    def many(source):
        return source.subset(np.arange(IMAGES) % len(source))

    monkeypatch.setattr(core_pretraining, "fit", stop)
    monkeypatch.setattr(finetuning, "fit", stop)
    monkeypatch.setattr(pretraining, "open_source", lambda *data, **how: many(opened(*data, **how)))
    monkeypatch.setattr(finetuning, "open_pair", lambda *data, **how: (lambda a, b: (many(a), b))(*pair(*data, **how)))
    # The names, sizes and times of a million files are not what is tested here.
    monkeypatch.setattr(pretraining, "identity", lambda *sources: {})
    monkeypatch.setattr(finetuning, "identity", lambda *sources: {})

    def build(*words):
        code, _, err = call(*words, "--device", "cpu", "--no-progress", "--workers", 0)
        assert (code, "stopped before" in err) == (1, True), err
        return seen

    return build


@pytest.fixture
def pretrained(built, pictures):
    return lambda *words: built("pretrain", pictures, "-c", "paper", *words)


SMALL = ("--model_args", '{"depth": 1, "embed_dim": 24, "num_heads": 2}', "--decoder_depth", 1)


def test_network(pretrained):
    model = pretrained()["module"].model
    encoder, decoder = model.encoder, model.decoder
    assert len(encoder.blocks) == 12  # ViT-B
    assert {block.attn.num_heads for block in encoder.blocks} == {12}
    assert tuple(encoder.patch_embed.proj.weight.shape) == (768, 3, 16, 16)
    assert encoder.blocks[0].mlp.fc1.out_features == 3072
    assert tuple(encoder.pos_embed.shape) == (1, 197, 768)
    assert not encoder.pos_embed.requires_grad
    # models_mae.py: decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16, LayerNorm of eps 1e-6
    assert (len(decoder.blocks), decoder.blocks[0].attn.num_heads) == (8, 16)
    assert tuple(decoder.embed.weight.shape) == (512, 768)
    assert tuple(decoder.pred.weight.shape) == (768, 512)  # 16 · 16 · 3 values
    assert {layer.eps for layer in model.modules() if isinstance(layer, torch.nn.LayerNorm)} == {1e-6}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 111_907_840 - 197 * 768 - 197 * 512  # the public checkpoint's parameters but fixed positions
    assert model.mean.flatten().tolist() == pytest.approx([255 * v for v in (0.485, 0.456, 0.406)])
    assert model.std.flatten().tolist() == pytest.approx([255 * v for v in (0.229, 0.224, 0.225)])
    assert model.shape.norm_pix_loss  # PRETRAIN.md: --norm_pix_loss
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.1)


def test_optimizer_schedule_batches_and_epochs(pretrained):
    found = pretrained(*SMALL)
    module, loader = found["module"], found["loader"]
    steps = len(loader) // found["accumulate_grad_batches"]
    assert len(loader.batch_at(0)[0]) * found["accumulate_grad_batches"] == 4096
    assert (steps, steps * 150) == (312, PRETRAIN_STEPS)
    assert found.get("max_epochs", found["max_steps"] / steps) == 150  # C.5: "150 epochs"
    assert found["gradient_clip_val"] is None
    module.total_steps = lambda: PRETRAIN_STEPS
    parts = module.configure_optimizers()
    optimizer = parts["optimizer"]
    assert type(optimizer) is torch.optim.AdamW
    assert [(g["weight_decay"], g["betas"], g["eps"]) for g in optimizer.param_groups] == [
        (0.05, (0.9, 0.95), 1e-8), (0.0, (0.9, 0.95), 1e-8)
    ]  # fmt: skip
    assert all(p.ndim >= 2 for p in optimizer.param_groups[0]["params"])
    peak = 1.5e-4 * 4096 / 256  # blr 1.5e-4 per 256 images
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(peak)
    rate = parts["lr_scheduler"]["scheduler"].lr_lambdas[0]
    rise = 10 * 312  # C.5: "10 warmup epochs"
    middle = (PRETRAIN_STEPS + rise) // 2
    at = {step: rate(step) for step in (0, rise // 2, rise, middle, PRETRAIN_STEPS)}
    assert at == pytest.approx({0: 0, rise // 2: 0.5, rise: 1.0, middle: 0.5, PRETRAIN_STEPS: 0}, abs=1e-3)
    assert rate((rise + middle) // 2) == pytest.approx((1 + math.cos(math.pi / 4)) / 2, abs=1e-3)


@pytest.mark.parametrize("decayed", [False, True])
def test_both_readings_of_what_decays(pretrained, decayed):
    """MAE's public code decays all that is no vector and no bias; its positions are fixed."""
    module = pretrained(*SMALL, *(["--decay_tokens"] if decayed else []))["module"]
    module.total_steps = lambda: PRETRAIN_STEPS
    groups = module.configure_optimizers()["optimizer"].param_groups
    owner = {id(p): name for name, p in module.model.named_parameters()}
    tokens = {owner[id(p)] for p in groups[not decayed]["params"]} & {"encoder.cls_token", "decoder.mask_token"}
    assert len(tokens) == 2


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("fixed", (0.75, 0.75), (0.75, 0.75)),  # C.5: "MR 0.75 is the MAE default"
        ("high", (0.9, 0.9), (0.9, 0.9)),
        ("low", (0.5, 0.5), (0.5, 0.5)),
        ("mdlm", (0.0, 1.0), (0.0, 1.0)),
        ("dynamic", (0.9, 0.9), (0.6, 0.6)),
        ("r2mae", (0.6, 0.9), (0.6, 0.9)),
    ],
)
def test_ranges_of_the_schemes(pretrained, name, first, last):
    sampler = pretrained(*SMALL, "--mask_ratio", name)["module"].mask_ratio
    assert sampler.bounds(0, PRETRAIN_STEPS) == pytest.approx(first)
    assert sampler.bounds(PRETRAIN_STEPS - 1, PRETRAIN_STEPS) == pytest.approx(last)
    if name == "dynamic":  # a step down per epoch: "the number of training epochs"
        values = {round(sampler.sample(step, PRETRAIN_STEPS), 9) for step in range(0, PRETRAIN_STEPS, 39)}
        assert len(values) == 150


def test_crops_and_flips(pretrained):
    transform = pretrained(*SMALL)["loader"]._loader.dataset.transform
    parts = {type(part).__name__: part for part in transform.transforms}
    crop = parts["RandomResizedCropAndInterpolation"]
    # RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=3), then RandomHorizontalFlip(), and nothing else
    assert (tuple(crop.size), tuple(crop.scale), tuple(crop.ratio)) == ((224, 224), (0.2, 1.0), (3 / 4, 4 / 3))
    assert Image.Resampling.BICUBIC.name.lower() in str(crop.interpolation).lower()
    assert parts["RandomHorizontalFlip"].p == 0.5
    jitter = parts.pop("ColorJitter", None)
    assert jitter is None or (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (None,) * 4
    assert not any("Jitter" in name or "Augment" in name or "Erasing" in name for name in parts)


def test_recipe_is_the_papers_scheme(pretrained):
    sampler = pretrained(*SMALL)["module"].mask_ratio
    assert (sampler.bounds(0), sampler.bounds(PRETRAIN_STEPS - 1)) == ((0.6, 0.9), (0.6, 0.9))


@pytest.mark.parametrize(("verb", "recipe"), [("pretrain", Pretrain), ("finetune", Finetune)])
def test_defaults_are_the_papers(verb, recipe):
    """The recipes are the commands' defaults, written out."""
    written = yaml.safe_load(Path(recipes("r2mae_vision", verb)["paper"]).read_text(encoding="utf-8"))
    given = recipe(data="x", **({} if verb == "pretrain" else {"model": "x"}))
    found = {name: getattr(given, name) for name in written}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    assert found == {**written, "warmup": pytest.approx(written["warmup"])}


def test_loss_on_a_worked_example(tiny_model):
    """`norm_pix_loss`: (target - mean) / sqrt(unbiased variance + 1e-6), mean over a patch, then over hidden ones."""
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    inputs = tiny_model.normalise(images)
    split = split_patches(2, 16, 0.75, torch.Generator().manual_seed(1))
    loss, predicted = tiny_model(inputs, split)[:2]
    assert split.hidden.shape == (2, 12)
    patches = F.unfold(inputs, 4, stride=4).view(2, 3, 16, 16).permute(0, 3, 2, 1).reshape(2, 16, 48)
    target = patches.gather(1, split.hidden[..., None].expand(-1, -1, 48))
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    assert loss.item() == pytest.approx((predicted - target).square().mean().item(), rel=1e-4)


@pytest.fixture
def tuned(built, pictures):
    """What `finetune -c paper` builds of a narrow ViT as deep as ViT-B."""
    return lambda *words: built("finetune", "scratch:vit_tiny_patch16_224", pictures, "-c", "paper", *words)


def test_fine_tuning_optimizer_and_schedule(tuned):
    found = tuned()
    module, loader = found["module"], found["loader"]
    steps = len(loader) // found["accumulate_grad_batches"]
    assert len(loader.batch_at(0)[0]) * found["accumulate_grad_batches"] == 1024
    assert (found["max_epochs"], steps * found["max_epochs"]) == (100, FINETUNE_STEPS)
    assert found["gradient_clip_val"] is None
    module._trainer = _Steps()
    parts = module.configure_optimizers()
    optimizer = parts["optimizer"]
    assert type(optimizer) is torch.optim.AdamW
    assert {g["betas"] for g in optimizer.param_groups} == {(0.9, 0.999)}
    peak = 5e-4 * 1024 / 256  # --blr 5e-4
    rates = sorted({g["initial_lr"] for g in optimizer.param_groups})
    assert rates == pytest.approx([peak * 0.65 ** (13 - layer) for layer in range(14)])  # --layer_decay 0.65
    owner = {id(p): name for name, p in module.model.named_parameters()}
    decayed = {owner[id(p)] for g in optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.05, 0.0}
    assert "blocks.0.attn.qkv.weight" in decayed
    assert not any("bias" in name or "norm" in name or "cls_token" in name for name in decayed)
    rate = parts["lr_scheduler"]["scheduler"].lr_lambdas[0]
    rise = 5 * 1251  # --warmup_epochs 5
    middle = (FINETUNE_STEPS + rise) // 2
    assert rate(rise // 2) == pytest.approx(0.5, abs=1e-3)
    assert rate(rise) == pytest.approx(1)
    assert rate(middle) == pytest.approx(0.5 + 1e-6 / peak / 2, abs=1e-4)
    assert rate(FINETUNE_STEPS) * peak == pytest.approx(1e-6)  # --min_lr 1e-6


def test_fine_tuning_network_and_augmentation(tuned):
    found = tuned()
    module, transform = found["module"], found["loader"]._loader.dataset.transform
    model = module.model
    drops = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert drops == pytest.approx([0.1 * i / 11 for i in range(12)])  # --drop_path 0.1
    assert model.global_pool == "avg"  # --global_pool is on by default
    assert isinstance(model.fc_norm, torch.nn.LayerNorm)
    assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.2)
    mix = module._mixup
    assert (mix.mixup_alpha, mix.cutmix_alpha, mix.label_smoothing) == (0.8, 1.0, 0.1)
    assert (mix.mix_prob, mix.switch_prob, mix.mode) == (1.0, 0.5, "batch")
    blank = torch.zeros(2000, 1, 8, 8)
    state = random.getstate()
    erased = (module._erase(blank, 0) != 0).flatten(1).any(1).float().mean().item()
    assert random.getstate() == state
    assert erased == pytest.approx(0.25, abs=0.03)  # --reprob 0.25
    parts = {type(part).__name__: part for part in transform.transforms}
    crop = parts["RandomResizedCropAndInterpolation"]
    assert (tuple(crop.size), tuple(crop.scale)) == ((224, 224), (0.08, 1.0))
    assert "bicubic" in str(crop.interpolation).lower()
    assert parts["RandomHorizontalFlip"].p == 0.5
    policy = parts["RandAugment"]  # --aa rand-m9-mstd0.5-inc1
    assert policy.num_layers == 2
    assert {(op.magnitude, op.magnitude_std) for op in policy.ops} == {(9, 0.5)}
    assert "PosterizeIncreasing" in {op.name for op in policy.ops}


def test_label_smoothing_on_a_worked_example(tuned):
    module = tuned("--mixup", 0, "--cutmix", 0)["module"]
    module._trainer = type("T", (), {"accumulate_grad_batches": 1, "global_step": 0})()
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    module._logits = lambda images: logits
    loss = module.training_step((torch.zeros(2, 3, 8, 8), torch.tensor([0, 0])), 0)
    likely = logits.log_softmax(1)
    assert loss.item() == pytest.approx(
        -(0.95 * likely[:, 0] + 0.05 * likely[:, 1]).mean().item()
    )  # 0.1 over 2 classes


def test_validation_sees_the_centre_of_256_pixels(tuned):
    spec = open_encoder("scratch:vit_base_patch16_224")
    config = Finetune("m", data="d")
    transform = inference.eval_transform(224, inference.crop_pct(config.crop_pct, spec))
    parts = {type(part).__name__: part for part in transform.transforms}
    assert parts["Resize"].size in (256, (256, 256), [256, 256])  # 224 / 0.875
    assert tuple(parts["CenterCrop"].size) == (224, 224)
    larger = open_encoder("scratch:vit_base_patch16_224", image_size=384)
    assert inference.crop_pct(None, larger) == 1.0
    scores = torch.arange(10.0).repeat(10, 1)
    model = torch.nn.Module()
    model.forward = lambda images: scores[: len(images)]
    source = type("S", (), {"__len__": lambda self: 10})()
    labels = torch.arange(10)
    batches = [(torch.zeros(10, 3, 224, 224, dtype=torch.uint8), labels, 0)]
    finetuning_batches, inference.eval_batches = inference.eval_batches, lambda *_: iter(batches)
    try:
        found = inference.accuracy(inference.logits_of(model, spec, source, crop_pct=1.0, device="cpu"))
    finally:
        inference.eval_batches = finetuning_batches
    assert (found["top1"], found["top5"]) == (pytest.approx(0.1), pytest.approx(0.5))  # table 1's two columns


def test_grid_of_table_1():
    config = Reproduce("table1", data="unused")
    options = pretrain_options(config, "r2mae", 0, None, "cpu")
    assert (options.epochs, options.batch_size, options.base_lr, options.lr) == (150, 4096, 1.5e-4, None)
    assert (options.warmup, options.weight_decay, options.betas) == (pytest.approx(1 / 15), 0.05, (0.9, 0.95))
    assert (options.model, options.image_size, options.crop_scale) == ("vit_base_patch16_224", 224, (0.2, 1.0))
    assert config.schemes == ("fixed", "high", "low", "mdlm", "dynamic", "r2mae")
    assert config.evaluate == ("finetune",)
    assert PAPER == {  # table 1
        "fixed": {"top1": 81.97, "top5": 96.02},
        "high": {"top1": 81.20, "top5": 95.68},
        "low": {"top1": 81.80, "top5": 95.93},
        "mdlm": {"top1": 81.02, "top5": 95.60},
        "dynamic": {"top1": 81.97, "top5": 96.04},
        "r2mae": {"top1": 82.00, "top5": 96.05},
    }
