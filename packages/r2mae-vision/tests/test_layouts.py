"""Weights of other people: prefixes, layouts and wrappers; nothing that features depend on is lost in silence."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from r2mae_core import UserError
from r2mae_vision import MAEShape, MaskedAutoencoder, build_encoder, open_encoder
from r2mae_vision.data.ranges import say_once
from r2mae_vision.mae.fitting import load_published
from r2mae_vision.mae.transformers_folder import export_transformers

SMALL = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
DECODER = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4}


def vit(seed=3, **changes):
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, **changes})
    for parameter in model.parameters():  # also the scales and norms that begin as ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def mae(**model_args):
    small = {name: SMALL[name] for name in ("depth", "embed_dim", "num_heads")}
    return MaskedAutoencoder(
        MAEShape("vit_tiny_patch16_224", 16, 4, model_args={**small, **model_args}, **DECODER), seed=1
    ).eval()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_values": 0.5}, r"no place for encoder.blocks.0.ls1.gamma and 3 more \(LayerScale: init_values in"),
        ({"qk_norm": True}, r"no place for encoder.blocks.0.attn.k_norm.bias and 7 more \(norms of q and k: qk_norm"),
        ({"depth": 4}, r"no place for encoder.blocks.2.attn.proj.bias and 23 more \(4 layers there, 2 here\)"),
        (
            {"depth": 1},
            r"missing: encoder.blocks.1.norm1.weight and 11 more of the model.s encoder \(1 layers there, 2 here",
        ),
        (
            {"pre_norm": True},
            "no place for encoder.norm_pre.bias and 1 more .pre_norm in --model_args.; without them it would",
        ),
        ({"reg_tokens": 2}, "no place for encoder.reg_token .reg_tokens in --model_args.; without them"),
    ],
)
def test_tensors_that_features_depend_on_are_not_lost(tmp_path, changes, message):
    torch.save(vit(**changes).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_published(tmp_path / "w.pth", mae())
    if "depth" not in changes:  # with the same changes the model has them all
        model, theirs = mae(**changes), vit(**changes)
        assert all(name.startswith("decoder.") for name in load_published(tmp_path / "w.pth", model))
        images = torch.randn(2, 3, 16, 16)
        assert torch.equal(model.encoder.forward_features(images), theirs.forward_features(images))


def test_the_same_holds_for_probe_and_finetune(tmp_path):
    full = timm.create_model("vit_tiny_patch16_224", img_size=32, init_values=0.5, qk_norm=True, num_classes=0)
    torch.save(full.state_dict(), tmp_path / "lost.pth")
    spec = open_encoder(str(tmp_path / "lost.pth"), "vit_tiny_patch16_224", image_size=32)
    with pytest.raises(
        UserError, match=r"the weights of lost: the model has no place for encoder.blocks.0.attn.k_norm.bias"
    ):
        build_encoder(spec, 0, num_classes=0, global_pool="")
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=24, num_classes=0).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(UserError, match=r"\(24 layers there, 12 here\)"):
        build_encoder(
            open_encoder(str(tmp_path / "deep.pth"), "vit_tiny_patch16_224"), 0, num_classes=0, global_pool=""
        )


def test_a_decoder_of_another_depth_is_refused(tmp_path):
    save_file(mae().state_dict(), tmp_path / "w.safetensors")
    for depth, message in (
        (1, "no place for decoder.blocks.1"),
        (3, r"missing: decoder.blocks.2.* \(2 layers there, 3 here"),
    ):
        shape = MAEShape.of({**mae().shape.plain(), "decoder_depth": depth})
        with pytest.raises(UserError, match=message):
            load_published(tmp_path / "w.safetensors", MaskedAutoencoder(shape))


def test_what_features_do_not_depend_on_is_named(tmp_path, capsys):
    say_once.cache_clear()
    state = {**vit().state_dict(), "head.weight": torch.zeros(5, 48), "head.bias": torch.zeros(5)}
    torch.save({**state, "dino_head.last.weight": torch.zeros(3)}, tmp_path / "w.pth")
    load_published(tmp_path / "w.pth", mae())
    assert "left out, because the model has no place for it: head (2), dino_head" in capsys.readouterr().out


def test_weights_fine_tuned_on_the_mean_over_patches(tmp_path, capsys):
    """They have fc_norm instead of norm, as MAE's fine-tuned files."""
    tuned = vit(global_pool="avg")
    torch.save({"model": tuned.state_dict()}, tmp_path / "tuned.pth")
    missing = load_published(tmp_path / "tuned.pth", mae())
    assert {"encoder.norm.weight", "encoder.norm.bias"} <= set(missing)
    assert "left out, because the model has no place for it: fc_norm (2)" in capsys.readouterr().out
    full = timm.create_model("vit_tiny_patch16_224", global_pool="avg", num_classes=0)
    torch.save({"model": full.state_dict()}, tmp_path / "full.pth")
    spec = open_encoder(str(tmp_path / "full.pth"), "vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"was fine-tuned on the mean over patches, .* use --pool avg"):
        build_encoder(spec, 0, num_classes=0, global_pool="")


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "backbone.", "teacher.", "student.", "teacher.backbone.", "encoder.",
     "model.", "module.base_encoder.", "module.encoder_q.", "model.backbone.vit."],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [None, "model", "state_dict", "teacher", "student"])
def test_prefixes_are_taken_off(tmp_path, prefix, wrapped):
    theirs = vit()
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    state["projector.weight"] = torch.zeros(2)
    torch.save(state if wrapped is None else {wrapped: state, "epoch": 3}, tmp_path / "w.pth")
    model = mae()
    assert all(name.startswith("decoder.") for name in load_published(tmp_path / "w.pth", model))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.encoder.forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_prefixes_of_a_whole_autoencoder_are_taken_off(tmp_path, prefix):
    theirs = MaskedAutoencoder(mae().shape, seed=8)
    export_transformers(theirs, tmp_path / "hf")
    from safetensors.torch import load_file

    for state in (theirs.state_dict(), load_file(tmp_path / "hf" / "model.safetensors")):
        torch.save({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "w.pth")
        model = mae()
        assert load_published(tmp_path / "w.pth", model) == []
        assert all(torch.equal(model.state_dict()[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("used", "other"),
    [
        ("teacher.backbone.", "student.backbone."),
        ("module.base_encoder.", "module.momentum_encoder."),
        ("module.encoder_q.", "module.encoder_k."),
    ],
)
def test_of_two_encoders_the_one_that_is_meant_is_used(tmp_path, used, other):
    theirs, second = vit(1), vit(2)
    state = {f"{other}{name}": value for name, value in second.state_dict().items()}
    torch.save({**state, **{f"{used}{name}": value for name, value in theirs.state_dict().items()}}, tmp_path / "w.pth")
    model = mae()
    load_published(tmp_path / "w.pth", model)
    assert torch.equal(model.encoder.blocks[0].mlp.fc1.weight, theirs.blocks[0].mlp.fc1.weight)
    torch.save({f"{p}.{n}": v for p in ("left", "right") for n, v in theirs.state_dict().items()}, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"holds several ViTs \(left., right.\): save the one that is meant"):
        load_published(tmp_path / "two.pth", model)


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_layout_of_dinov2(tmp_path, registers, chunked):
    """The oracle is timm's own reader of these files."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    changes = {"init_values": 0.5, "reg_tokens": registers, "no_embed_class": registers > 0}
    theirs = vit(**changes)
    state = {}
    for name, value in theirs.state_dict().items():
        state[name.replace("blocks.", "blocks.0.") if chunked else name] = value
    state["mask_token"] = torch.zeros(1, 48)
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.randn(1, 1, 48), state["pos_embed"]], dim=1)
    torch.save(state, tmp_path / "dinov2.pth")
    if not chunked:
        theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    elif registers:
        theirs.cls_token.data += state["pos_embed"][:, :1]
    model = mae(**changes)
    assert all(name.startswith("decoder.") for name in load_published(tmp_path / "dinov2.pth", model))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.encoder.forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters"])
def test_transformers_models_give_their_features(tmp_path, kind):
    import transformers

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16, "patch_size": 4}
    sizes |= {"intermediate_size": 192} if kind == "ViT" else {"num_register_tokens": 2} if "With" in kind else {}
    torch.manual_seed(4)
    config = getattr(transformers, f"{kind}Config")(**sizes, layer_norm_eps=1e-5)
    theirs = getattr(transformers, f"{kind}Model")(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    (tmp_path / "bin").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-5}))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    changes = {} if kind == "ViT" else {"init_values": 1.0}
    if "With" in kind:
        changes |= {"reg_tokens": 2, "no_embed_class": True}
    images = torch.randn(2, 3, 16, 16)
    wanted = theirs(images).last_hidden_state
    for name in ("whole", "shards", "bin"):
        model = mae(**changes)
        assert all(name.startswith("decoder.") for name in load_published(tmp_path / name, model))
        torch.testing.assert_close(model.encoder.forward_features(images), wanted, atol=2e-5, rtol=1e-5)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../evil"}}')
    with pytest.raises(UserError, match=r"index.json is damaged: it does not say which shard holds which tensor"):
        load_published(tmp_path / "shards", model)
