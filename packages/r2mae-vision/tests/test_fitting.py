"""Weights that do not fit: what features depend on is never newly initialised or left out."""

import json

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from r2mae_core import UserError
from r2mae_vision import (
    MAEShape,
    MaskedAutoencoder,
    build_encoder,
    export_transformers,
    load_published,
    open_encoder,
    save_mae,
)
from r2mae_vision.data.ranges import say_once
from r2mae_vision.mae import timm_folder
from r2mae_vision.mae.layouts import to_ours
from r2mae_vision.mae.stated import with_processor

ARGS = {"depth": 2, "embed_dim": 48, "num_heads": 3}
DECODER = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4}


def vit(seed=3, **changes):
    torch.manual_seed(seed)
    sizes = {"img_size": 16, "patch_size": 4, **ARGS, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **{**sizes, **changes})
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def mae(shape=None, **model_args):
    plain = MAEShape("vit_tiny_patch16_224", 16, 4, model_args={**ARGS, **model_args}, **DECODER).plain()
    return MaskedAutoencoder(MAEShape.of({**plain, **(shape or {})}), seed=1).eval()


@pytest.fixture(scope="module")
def whole():
    return vit()


def same_features(model, theirs):
    images = torch.randn(2, 3, 16, 16)
    return torch.equal(model.encoder.forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("cls_token", r"missing: encoder.cls_token of the model's encoder \(class_token in --model_args\)"),
        ("pos_embed", r"missing: encoder.pos_embed of .*relative or rotary positions cannot be used"),
        ("norm.weight", "missing: encoder.norm.weight of the model's encoder;"),
        ("patch_embed.proj.bias", "missing: encoder.patch_embed.proj.bias of the model's encoder;"),
        ("blocks.0.attn.qkv.bias", "missing: encoder.blocks.0.attn.qkv.bias of the model's encoder;"),
    ],
)
def test_what_the_file_lacks_is_not_newly_initialised(whole, tmp_path, lost, message):
    state = whole.state_dict()
    torch.save({name: value for name, value in state.items() if name != lost}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_published(tmp_path / "w.pth", mae())
    # A name with another prefix than the rest is as good as lost.
    torch.save({name if name == lost else f"module.{name}": v for name, v in state.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_published(tmp_path / "w.pth", mae())


def test_a_layer_lost_in_the_middle(tmp_path):
    state = vit(depth=5).state_dict()
    torch.save({name: value for name, value in state.items() if "blocks.2." not in name}, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"missing: encoder.blocks.2.norm1.weight and 11 more .*\(4 layers there, 5 here\)"
    ):
        load_published(tmp_path / "w.pth", mae(depth=5))


@pytest.mark.parametrize("lost", ["decoder.mask_token", "decoder.pred.weight", "decoder.blocks.1.norm1.bias"])
def test_half_a_decoder_is_none(tmp_path, lost):
    save_file({name: value for name, value in mae().state_dict().items() if name != lost}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=f"missing: {lost} of the model's decoder"):
        load_published(tmp_path / "w.safetensors", mae())


@pytest.mark.parametrize(
    "name",
    ["rel_pos_bias.relative_position_bias_table", "blocks.0.attn.relative_position_bias_table", "rope.periods",
     "dist_token", "patch_embed.norm.weight", "stem.0.weight", "adapter.down.weight", "layer_scale", "norm_post.weight",
     "blocks_token_only.0.norm1.weight", "blocks.0.attn.q_bias", "storage_tokens"],
)  # fmt: skip
def test_a_tensor_that_nobody_knows_is_refused(whole, tmp_path, name):
    torch.save({**whole.state_dict(), name: torch.zeros(48)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"no place for encoder.{name}"):
        load_published(tmp_path / "w.pth", mae())


def test_heads_and_the_like_are_named_and_left_out(whole, tmp_path, capsys):
    beside = ["head.weight", "head_dist.bias", "classifier.bias", "pooler.dense.bias", "mask_token", "fc_norm.bias",
              "pre_logits.fc.bias", "dino_head.mlp.0.bias", "projector.0.bias", "attn_pool.latent"]  # fmt: skip
    torch.save({**whole.state_dict(), **dict.fromkeys(beside, torch.zeros(2))}, tmp_path / "w.pth")
    model = mae()
    assert all(name.startswith("decoder.") for name in load_published(tmp_path / "w.pth", model))
    assert same_features(model, whole)
    said = capsys.readouterr().out
    assert all(name.split(".")[0] in said for name in beside)


@pytest.mark.parametrize(
    "path",
    [
        "ema",
        "state_dict_ema",
        "net",
        "model_state_dict",
        "weights",
        "student",
        "encoder",
        "state.model",
        "model.module",
    ],
)
def test_whatever_wraps_a_state_dict(whole, tmp_path, path):
    state = whole.state_dict()
    for name in reversed(path.split(".")):
        optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}
        state = {name: state, "epoch": 2, "optimizer": optimizer}
    torch.save(state, tmp_path / "w.pth")
    model = mae()
    load_published(tmp_path / "w.pth", model)
    assert same_features(model, whole)


@pytest.mark.parametrize(
    ("used", "other"),
    [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("teacher", "student"), ("target_encoder", "encoder")],
)
def test_of_several_wrapped_ones_the_one_used_is_named(whole, tmp_path, used, other, capsys):
    """As timm's own reader, which takes the average over the training."""
    from timm.models import load_state_dict

    say_once.cache_clear()
    torch.save({other: vit(8).state_dict(), used: whole.state_dict(), "epoch": 1}, tmp_path / "w.pth")
    model = mae()
    load_published(tmp_path / "w.pth", model)
    assert same_features(model, whole)
    said = capsys.readouterr().out
    assert f"holds several ViTs: {used} is used, not {other}" in said
    if used.endswith("ema"):
        theirs = load_state_dict(str(tmp_path / "w.pth"))
        assert all(torch.equal(theirs[name], value) for name, value in model.encoder.state_dict().items())
    assert set(to_ours(torch.load(tmp_path / "w.pth")[used])) == {f"encoder.{name}" for name in whole.state_dict()}


def test_numbers_of_other_kinds(whole, tmp_path):
    state, model = whole.state_dict(), mae()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: value.to(dtype) for name, value in state.items()}, tmp_path / "w.pth")
        load_published(tmp_path / "w.pth", model)
        assert all(torch.equal(model.encoder.state_dict()[n], v.to(dtype).float()) for n, v in state.items())
    for change, message in (
        (lambda value: value.to(torch.int8), "encoder.cls_token holds torch.int8, not floating-point numbers"),
        (lambda value: value.to("meta"), "cls_token is a tensor without its numbers"),
        (lambda value: value.to_sparse(), "cls_token is a tensor without its numbers or in a sparse form"),
        (lambda value: value * float("nan"), "cls_token has NaN"),
    ):
        torch.save({name: change(value) for name, value in state.items()}, tmp_path / "w.pth")
        with pytest.raises(UserError, match=message):
            load_published(tmp_path / "w.pth", model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_chans": 1}, "it reads images of 1 channels, these have 3"),
        ({"in_chans": 5}, "it reads images of 5 channels, these have 3"),
        ({"patch_size": 8}, "its patches are 8 x 8 pixels: --patch_size"),
        ({"embed_dim": 96}, "choose the model"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "positions for 15 patches"),
    ],
)
def test_another_size_is_refused_with_what_differs(tmp_path, changes, message):
    torch.save(vit(**changes).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_published(tmp_path / "w.pth", mae())


def test_class_tokens_with_and_without_a_position(tmp_path):
    plain, free = vit(), vit(no_embed_class=True)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    torch.save(free.state_dict(), tmp_path / "free.pth")
    for name, theirs in (("plain", plain), ("free", free)):
        model = mae(no_embed_class=True)
        load_published(tmp_path / f"{name}.pth", model)
        assert same_features(model, theirs)
    with pytest.raises(UserError, match="positions for 15 patches"):
        load_published(tmp_path / "free.pth", mae())


def hugging_face(tmp_path, **changes):
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192}
    torch.manual_seed(4)
    config = transformers.ViTConfig(**{**sizes, "image_size": 16, "patch_size": 4, **changes})
    transformers.ViTModel(config).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 6}, "config.json states attention heads: 6, the model has 3"),
        (
            {"hidden_act": "gelu_new"},
            "states activation: gelu_tanh, the model has gelu; it would compute other features",
        ),
        ({"hidden_act": "relu"}, "states activation: relu, the model has gelu"),
        ({"hidden_act": "mish"}, "states the activation mish, which is not known here"),
    ],
)
def test_what_sizes_do_not_show_is_compared(tmp_path, changes, message):
    """Heads and activation: the weights fit, the features would be others."""
    with pytest.raises(UserError, match=message):
        load_published(hugging_face(tmp_path, **changes), mae())
    with pytest.raises(UserError, match=message.replace("has 3", "has 3|missing")):
        open_encoder(str(tmp_path / "hf"), "vit_tiny_patch16_224")  # 3 heads, gelu


def test_the_same_of_our_own_and_of_timms_folders(tmp_path, capsys):
    other = mae({"norm_eps": 1e-5, "mean": [0.5] * 3}, num_heads=6)
    save_mae(other, tmp_path / "ours")
    (tmp_path / "timm").mkdir()
    save_file(other.encoder.state_dict(), tmp_path / "timm" / "model.safetensors")
    timm_folder.write_config(tmp_path / "timm", other.shape, other.encoder, crop_pct=1.0)
    for name in ("ours", "timm"):
        with pytest.raises(UserError, match="states attention heads: 6, the model has 3"):
            load_published(tmp_path / name, mae())
    with pytest.raises(UserError, match="states attention heads in the decoder: 4, the model has 8"):
        load_published(tmp_path / "ours", mae({"decoder_heads": 8}, num_heads=6))
    capsys.readouterr()
    model = mae(num_heads=6)
    load_published(tmp_path / "ours", model)
    assert model.shape.norm_eps == 1e-5
    assert model.encoder.norm.eps == 1e-5
    said = capsys.readouterr().out
    assert "its weights know pixels of mean 0.5, 0.5, 0.5, those here are of 0.485, 0.456, 0.406" in said
    load_published(tmp_path / "ours", mae({"norm_pix_loss": False}, num_heads=6))
    assert (
        "its decoder predicts pixels normalised within each patch, here pixels as they are" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [0.5, 0.4, 0.3]},
     {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 50.0, 40.0]},
     {"do_normalize": False}],
)  # fmt: skip
def test_pixels_are_scaled_as_transformers_own_processor_scales_them(tmp_path, changes):
    folder = hugging_face(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, **changes)
    processor.save_pretrained(folder)
    shape = with_processor(MAEShape("vit_tiny_patch16_224", 16, 4), folder)
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    wanted = processor(image, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (shape.mean, shape.std))
    torch.testing.assert_close((image / 255 - mean) / std, wanted, atol=1e-5, rtol=1e-5)


def test_an_export_of_sixteen_bits_keeps_its_range(tmp_path):
    model = mae({"pixel_range": [0.0, 65535.0]})
    export_transformers(model, tmp_path)
    assert with_processor(model.shape, tmp_path).pixel_range == (0.0, 65535.0)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, "rescale_factor": "x"}))
    with pytest.raises(UserError, match="rescale_factor must be a positive number, got x"):
        with_processor(model.shape, tmp_path)
    assert load_file(tmp_path / "model.safetensors")


def test_a_swiglu_model_of_transformers_gives_its_features(tmp_path):
    """The oracle is transformers' own model; the same weights do not fit a plain MLP."""
    config = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=14, use_swiglu_ffn=True,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(4)
    theirs = transformers.Dinov2Model(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    shape = {"image_size": 28, "patch_size": 14, "model": "vit_giant_patch14_dinov2"}
    hidden = next(v for k, v in load_file(tmp_path / "hf" / "model.safetensors").items() if "weights_out.w" in k).shape[
        1
    ]
    model = mae(shape, init_values=1.0, mlp_ratio=2 * hidden / 48)
    load_published(tmp_path / "hf", model)
    images = torch.randn(2, 3, 28, 28)
    wanted = theirs(images).last_hidden_state
    torch.testing.assert_close(model.encoder.forward_features(images), wanted, atol=2e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"checkpoint of another size: encoder.blocks.0.mlp.fc."):
        load_published(tmp_path / "hf", mae({"image_size": 28, "patch_size": 14}, init_values=1.0))


def test_probe_and_finetune_refuse_alike(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).state_dict()
    for name, change, message in (
        ("lost", {k: v for k, v in state.items() if k != "cls_token"}, "missing: encoder.cls_token"),
        ("more", {**state, "rope.periods": torch.zeros(3)}, "no place for encoder.rope.periods"),
        ("int", {**state, "norm.bias": torch.zeros(192, dtype=torch.int32)}, "holds torch.int32"),
    ):
        torch.save(change, tmp_path / f"{name}.pth")
        spec = open_encoder(str(tmp_path / f"{name}.pth"), "vit_tiny_patch16_224", image_size=32)
        with pytest.raises(UserError, match=message):
            build_encoder(spec, 0, num_classes=0, global_pool="")
