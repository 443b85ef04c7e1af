"""Options reach the optimizer, the schedule, the loader and the trainer: every value differs from its default."""

import math
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch

from r2mae_core import MaskDraw, Record, RunFolder, StepCheckpoints, StepOrder, UserError, compare, nested_masks
from r2mae_vision import MaskedAutoencoder, Member, MLPAutoencoder, open_encoder, open_source, pretrain_unet, save_mae
from r2mae_vision.celeba import paper as celeba_paper
from r2mae_vision.celeba import pretrain as celeba_pretrain
from r2mae_vision.data.augment import random_resized_crop
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.mae import finetune as finetuning
from r2mae_vision.mae.pretrain import VisionModality, device_augmentation, pretrain
from r2mae_vision.mnist import paper as mnist_paper
from r2mae_vision.mnist import pretrain as mnist_pretrain
from r2mae_vision.options import Finetune, Pretrain, PretrainMLP, ReproduceCeleba, ReproduceMNIST

CONFIG = Pretrain(
    "digits", model="vit_tiny_patch16_224", model_args={"depth": 1, "embed_dim": 24, "num_heads": 3}, image_size=8,
    patch_size=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, positions="learned", norm_pix_loss=False,
    augment="none", crop_scale=(0.5, 0.8), flip=False, mask_ratio=0.5, epochs=2, batch_size=128, micro_batch_size=32,
    base_lr=1e-3, warmup=0.25, weight_decay=0.3, betas=(0.8, 0.7), clip=0.5, seed=3, precision="bf16-mixed",
    validate_every=7, checkpoint_every=6, log_every=3, device="cpu", progress=False,
)  # fmt: skip


class Watch(pl.Callback):
    """Keeps what the training was built of, and the learning rate of every step."""

    def __init__(self):
        self.rates, self.batches, self.states = {}, [], []

    def on_train_start(self, trainer, pl_module):
        self.trainer, self.module, self.optimizer = trainer, pl_module, trainer.optimizers[0]
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.facts = {
            "clip": trainer.gradient_clip_val,
            "accumulate": trainer.accumulate_grad_batches,
            "precision": trainer.precision,
            "steps": trainer.estimated_stepping_batches,
            "log_every": trainer.log_every_n_steps,
            "validate_every": trainer.val_check_batch,
            "checkpoint_every": next(call.every for call in trainer.callbacks if isinstance(call, StepCheckpoints)),
        }

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.setdefault(trainer.global_step, [group["lr"] for group in self.optimizer.param_groups])
        self.batches.append(batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.states.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    watch, before = Watch(), VisionModality.callbacks
    VisionModality.callbacks = lambda self, run: [watch]
    try:
        run = pretrain(replace(CONFIG, out=tmp_path_factory.mktemp("reach") / "run"))
    finally:
        VisionModality.callbacks = before
    return watch, run


def test_pretrain_reaches_the_trainer(pretraining):
    assert pretraining[0].facts == {
        "clip": 0.5, "accumulate": 4, "precision": "bf16-mixed", "steps": 20, "log_every": 3, "validate_every": 28,
        "checkpoint_every": 6,
    }  # fmt: skip


def test_pretrain_reaches_the_optimizer(pretraining):
    watch, _ = pretraining
    names = {id(value): name for name, value in watch.module.model.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in watch.optimizer.param_groups)
    assert [group["weight_decay"] for group in watch.optimizer.param_groups] == [0.3, 0.0]
    assert {group["betas"] for group in watch.optimizer.param_groups} == {(0.8, 0.7)}
    assert {"encoder.patch_embed.proj.weight", "encoder.blocks.0.attn.qkv.weight", "decoder.pred.weight"} <= decayed
    assert {"encoder.cls_token", "encoder.pos_embed", "decoder.mask_token", "encoder.norm.weight"} <= free
    assert all(name.endswith(".weight") and ".norm" not in name for name in decayed)
    assert decayed | free == set(names.values()) - {"decoder.pos_embed"}  # which is fixed


def test_pretrain_reaches_the_schedule(pretraining):
    """The peak is base_lr per 256 images; it rises over a quarter of the steps and falls as a cosine to zero."""
    rates, peak = pretraining[0].rates, 1e-3 * 128 / 256
    assert len(rates) == 20
    wanted = {step: peak * (step + 1) / 6 for step in range(5)} | {5: peak}
    wanted |= {step: peak * 0.5 * (1 + math.cos(math.pi * (step - 5) / 15)) for step in (6, 12, 19)}
    assert {step: rates[step] for step in wanted} == {step: pytest.approx([rate] * 2) for step, rate in wanted.items()}


def test_pretrain_reaches_the_loader_and_the_start(pretraining):
    watch, _ = pretraining
    source, order = open_source("digits"), StepOrder(1347, 128, 32, seed=3)
    for position in (0, 5, 41):
        assert torch.equal(watch.batches[position][0], source.fetch(order.batch(position))[0])
    model = MaskedAutoencoder(VisionModality(CONFIG).model.shape, seed=3)
    assert all(torch.equal(watch.start[f"model.{name}"], value) for name, value in model.state_dict().items())
    assert (watch.module.seed, watch.module.mask_ratio.ratio) == (3, 0.5)
    shape = model.shape
    assert (shape.positions, shape.norm_pix_loss, shape.in_chans, shape.decoder_heads) == ("learned", False, 1, 2)


@pytest.mark.parametrize("change", [{"lr": 0.02}, {"lr": 0.02, "base_lr": 5.0}])
def test_a_peak_of_ones_own_replaces_the_base_rate(change):
    modality = VisionModality(replace(CONFIG, **change))
    assert modality.build(modality.sampler()).lr == 0.02


def test_crop_and_flip_reach_the_device():
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert device_augmentation(CONFIG) is None
    for flip in (False, True):
        crop = device_augmentation(replace(CONFIG, augment="crop", flip=flip))
        ours = crop(images, torch.Generator().manual_seed(1))
        wanted = random_resized_crop(images, 8, torch.Generator().manual_seed(1), scale=(0.5, 0.8), flip=flip)
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("change", [{"seed": 4}, {"lr": 0.1}, {"warmup": 0.5}, {"clip": 1.0}, {"ratio_per": "sample"},
                                    {"mask_shape": "blocks"}, {"loss_weight": "inverse_ratio"}])  # fmt: skip
def test_a_run_resumes_with_its_own_options_alone(pretraining, change):
    _, run = pretraining
    name, value = next(iter(change.items()))
    with pytest.raises(UserError, match=rf"{name} is .* there and {value!r} here"):
        pretrain(replace(CONFIG, **change, out=run.path))
    assert pretrain(replace(CONFIG, validate_every=3, log_every=1, out=run.path)).results() == run.results()


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    home, watch = tmp_path_factory.mktemp("tuning"), Watch()
    save_mae(VisionModality(replace(CONFIG, model_args={**CONFIG.model_args, "depth": 2})).model, home / "start")
    config = Finetune(
        str(home / "start"), "digits", epochs=2, batch_size=64, micro_batch_size=32, max_train=320, base_lr=0.02,
        min_lr=1e-3, warmup=0.2, layer_decay=0.5, weight_decay=0.2, clip=0.7, ema=0.25, mixup=0.3, cutmix=0.4,
        smoothing=0.2, erase=0.5, drop_path=0.3, auto_augment="none", crop_pct=1.0, seeds=(5,), checkpoint_every=4,
        device="cpu", workers=0, progress=False, out=home / "run",
    )  # fmt: skip
    fit, before = finetuning.fit, finetuning.fit
    finetuning.fit = lambda *args, **kwargs: fit(*args, **{**kwargs, "callbacks": [*kwargs["callbacks"], watch]})
    try:
        finetuning.finetune(config)
    finally:
        finetuning.fit = before
    return watch, config


def test_finetune_reaches_trainer_and_schedule(tuning):
    watch, config = tuning
    facts = {name: watch.facts[name] for name in ("clip", "accumulate", "steps", "checkpoint_every")}
    assert facts == {"clip": 0.7, "accumulate": 2, "steps": 10, "checkpoint_every": 4}
    peak, end = 0.02 * 64 / 256, 1e-3 / (0.02 * 64 / 256)
    falling = [end + (1 - end) * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    wanted = [peak * factor for factor in (1 / 3, 2 / 3, *falling)]
    assert [max(watch.rates[step]) for step in range(10)] == pytest.approx(wanted)
    assert {group["weight_decay"] for group in watch.optimizer.param_groups} == {0.0, 0.2}
    assert min(watch.rates[2]) == pytest.approx(peak * 0.5**3)  # the patch embedding, below two blocks
    mixup = watch.module._mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.label_smoothing) == (0.3, 0.4, 0.2)
    assert watch.module.model.blocks[1].drop_path1.drop_prob == pytest.approx(0.3)
    assert all(len(batch[0]) == 32 for batch in watch.batches)
    assert config.world_size == 1


def test_the_average_is_that_of_the_weights_after_every_step(tuning):
    watch, config = tuning
    states = watch.states[1::2]  # after the second micro-batch of each step
    name = "blocks.0.attn.qkv.weight"
    wanted = watch.start[f"model.{name}"]
    for state in states:
        wanted = 0.25 * wanted + 0.75 * state[name]
    from safetensors.torch import load_file

    home = config.out / "seed5"
    torch.testing.assert_close(load_file(home / "model_ema.safetensors")[name], wanted)
    assert torch.equal(load_file(home / "model.safetensors")[name], states[-1][name])


def test_stochastic_depth_depends_on_seed_step_and_part(tuning):
    """The same batch at another step, or with another seed, drops other blocks."""
    watch, config = tuning
    spec = open_encoder(config.model)
    losses = set()
    from types import SimpleNamespace

    for seed in (5, 6):
        module = finetuning.Classifier(watch.module.model.train(), spec, replace(config, mixup=0.0, cutmix=0.0), seed)
        for step in (0, 1, 0):
            module._trainer = SimpleNamespace(accumulate_grad_batches=2, global_step=step)
            type(module).global_step = property(lambda self: self._trainer.global_step)
            losses.add(round(float(module.training_step(watch.batches[0], 0).detach()), 6))
    del type(module).global_step
    assert len(losses) == 4


@pytest.fixture
def fits(monkeypatch):
    """What `fit` is called with in the MNIST and CelebA experiments; nothing is trained."""
    seen = []

    def note(module, loader, run, **kwargs):
        seen.append((module, next(iter(loader)), kwargs))

    for room in (mnist_pretrain, celeba_pretrain):
        monkeypatch.setattr(room, "fit", note)
    return seen


def test_pretrain_mlp_reaches_the_training(fits, tmp_path, digits):
    config = PretrainMLP("digits", mask_ratio=0.3, n_hidden=(9, 7), epochs=4, batch_size=50, lr=0.07, seed=6,
                         device="cpu", progress=False, out=tmp_path / "run")  # fmt: skip
    run = mnist_pretrain.pretrain_mlp(config)
    module, batch, kwargs = fits[0]
    assert (kwargs["max_epochs"], kwargs["samples_per_step"], kwargs["device"]) == (4, 50, "cpu")
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.07
    assert batch.shape == (1, 50, 64)
    wanted = mnist_pretrain.BatchOrder(1347, 50, 6).batch(0)
    assert torch.equal(batch[0], digits.scale(digits.train_images[torch.from_numpy(wanted)]))
    assert [(m.sampler.ratio, m.seed) for m in module.members] == [(0.3, 6)]
    start = MLPAutoencoder(64, (9, 7), (6,))
    assert torch.equal(module.model.encoder[0].weight, start.encoder[0].weight)
    assert {(r.scheme, r.seed) for r in run.results()} == {("fixed 0.3", 6)}
    with pytest.raises(UserError, match="seed is 6 there and 7 here"):
        mnist_pretrain.pretrain_mlp(replace(config, seed=7))


def test_a_stack_is_a_masked_module(digits):
    """At one ratio for all, its loss is the sum of what each member makes of the same masks."""
    members = [Member("a", None, 0), Member("b", None, 1), Member("c", None, 0)]
    module = mnist_pretrain.StackedPretraining(MLPAutoencoder(64, (9, 7), (0, 1, 0)), members, 1e-3)
    batch = digits.scale(digits.train_images[:20]).view(2, 10, 64)
    loss = module.masked_loss(batch, MaskDraw(0.4, torch.Generator().manual_seed(2)))
    mask = nested_masks((10, 64), [0.4], generator=torch.Generator().manual_seed(2))
    wanted = module.model.masked_errors(batch[[0, 1, 0]], mask.expand(3, -1, -1)).sum()
    torch.testing.assert_close(loss, wanted)


def test_pretrain_unet_reaches_the_training(fits, tmp_path, faces):
    settings = {"base_channels": 2, "output": "linear", "epochs": 4, "batch_size": 30, "lr": 0.07, "seed": 6}
    pretrain_unet(faces, mnist_pretrain.sampler_from_config(0.3, "vision", 6), RunFolder(tmp_path / "run", {}),
                  **settings, device="cpu", precision="bf16-mixed", progress=False)  # fmt: skip
    module, batch, kwargs = fits[0]
    assert (kwargs["max_epochs"], kwargs["samples_per_step"], kwargs["precision"]) == (4, 30, "bf16-mixed")
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.07
    assert (module.seed, module.mask_ratio.ratio, module.model.output) == (6, 0.3, "linear")
    rows = celeba_pretrain.BatchOrder(700, 30, 6).batch(0)
    assert torch.equal(batch, faces.images("train")[torch.from_numpy(rows)])


def test_reproduce_reaches_pretraining_and_probe(monkeypatch, tmp_path, celeba_root):
    """Every option of the figures' commands reaches the models or their evaluation."""
    seen = []
    for room, train, evaluate in (
        (celeba_paper, "pretrain_unet", "evaluate_unet"),
        (mnist_paper, "pretrain_members", "evaluate_members"),
    ):
        monkeypatch.setattr(room, train, lambda *args, **kwargs: seen.append(kwargs))
        monkeypatch.setattr(
            room,
            evaluate,
            lambda *args, task, **kwargs: seen.append(kwargs) or [Record(task, "x", 1.0, "low 0.5", 0, 9)],
        )
    common = {"device": "cpu", "progress": False, "ratios": (0.5,), "ranges": (), "seeds": (7,), "epochs": 3}
    for reproduce, config in (
        (celeba_paper.reproduce, ReproduceCeleba("fig2b", data=celeba_root, side=16, base_channels=(2,), dropout=0.2,
                                                 output="linear", batch_size=33, precision="bf16-mixed", **common)),
        (mnist_paper.reproduce, ReproduceMNIST("fig2a", data="digits", n_hidden=(9,), n_latent=(7,), **common)),
    ):  # fmt: skip
        with pytest.raises(Exception):  # noqa: B017, PT011  (there is nothing to draw)
            reproduce(replace(config, out=tmp_path / config.target))
    unet, probe, mlp, _ = seen
    assert {key: unet[key] for key in ("epochs", "batch_size", "output", "precision", "base_channels", "seed")} == {
        "epochs": 3, "batch_size": 33, "output": "linear", "precision": "bf16-mixed", "base_channels": 2, "seed": 7,
    }  # fmt: skip
    assert (probe["dropout"], probe["epochs"], probe["batch_size"], probe["seed"]) == (0.2, 3, 33, 7)
    assert (mlp["hidden"], mlp["epochs"], mlp["batch_size"], mlp["lr"]) == ((9, 7), 3, 128, 3e-3)


@pytest.mark.parametrize("metric", ["probe_accuracy", "linear_top1", "top1"])
def test_a_higher_accuracy_ranks_first(metric):
    records = [Record("digits", metric, value, name, 0, 9) for name, value in (("a", 0.5), ("b", 0.7))]
    table = compare(records, RANK_BY)
    assert table.mean_rank == {"a": 2.0, "b": 1.0}
