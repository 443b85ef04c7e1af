import argparse
import json

import pytest
import torch
from safetensors.torch import save_file

from r2mae_core import UserError
from r2mae_vision import MAEShape, MaskedAutoencoder, load_mae, save_mae
from r2mae_vision.data.tensors import read_tensors
from r2mae_vision.mae.fitting import load_published
from r2mae_vision.mae.timm_folder import export_timm
from r2mae_vision.mae.transformers_folder import export_transformers


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def facebook_state(model):
    """The state dict as the files published with MAE have it: timm's names, the decoder's with a prefix."""
    state = {}
    for name, value in model.state_dict().items():
        if name == "decoder.mask_token":
            state["mask_token"] = value
        elif name.startswith("decoder."):
            state["decoder_" + name.removeprefix("decoder.")] = value
        else:
            state[name.removeprefix("encoder.")] = value
    return state


def test_a_saved_model_comes_back(tiny_model, tmp_path):
    save_mae(tiny_model, tmp_path / "model")
    for place in (tmp_path, tmp_path / "model"):
        again = load_mae(place)
        assert again.shape == tiny_model.shape
        assert same(again, tiny_model)


def test_timm_loads_the_export_and_gives_identical_features(tiny_model, tmp_path):
    import timm

    file = export_timm(tiny_model, tmp_path / "timm.safetensors")
    shape = tiny_model.shape
    arguments = {"img_size": shape.image_size, "patch_size": shape.patch_size, **shape.model_args}
    theirs = timm.create_model(shape.model, **arguments, num_classes=0, checkpoint_path=str(file)).eval()
    images = torch.randn(3, 3, shape.image_size, shape.image_size)
    assert torch.equal(theirs.forward_features(images), tiny_model.encoder.forward_features(images))


def test_transformers_round_trip(tiny_model, tmp_path):
    from transformers import ViTMAEForPreTraining, ViTMAEModel

    folder = export_transformers(tiny_model, tmp_path / "a")
    theirs = ViTMAEForPreTraining.from_pretrained(folder)
    assert ViTMAEModel.from_pretrained(folder).config.mask_ratio == 0.75
    theirs.save_pretrained(tmp_path / "b")
    torch.save(theirs.state_dict(), tmp_path / "b.pth")  # in memory transformers 5 has other names than in its files
    for place in (folder, tmp_path / "b", tmp_path / "b.pth"):
        again = MaskedAutoencoder(tiny_model.shape, seed=9)
        assert load_published(place, again) == []
        assert same(again, tiny_model)
        assert again.encoder.norm.eps == tiny_model.encoder.norm.eps
    # Published folders of transformers have another epsilon: it is kept when the model is saved again.
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "layer_norm_eps": 1e-12}))
    load_published(folder, again)
    assert load_mae(save_mae(again, tmp_path / "c")).decoder.norm.eps == 1e-12


def test_a_run_folder_is_a_start_too(tiny_model, tmp_path):
    save_mae(tiny_model, tmp_path / "run" / "model")
    again = MaskedAutoencoder(tiny_model.shape, seed=9)
    assert load_published(tmp_path / "run", again) == []
    assert same(again, tiny_model)


def test_the_layout_of_the_files_published_with_mae(tiny_model, tmp_path):
    torch.save({"model": facebook_state(tiny_model)}, tmp_path / "mae_visualize.pth")
    again = MaskedAutoencoder(tiny_model.shape, seed=9)
    assert load_published(tmp_path / "mae_visualize.pth", again) == []
    assert same(again, tiny_model)
    # mae_pretrain_*.pth hold the encoder alone.
    encoder = {k: v for k, v in facebook_state(tiny_model).items() if not k.startswith(("decoder", "mask_token"))}
    torch.save({"model": encoder}, tmp_path / "mae_pretrain.pth")
    again = MaskedAutoencoder(tiny_model.shape, seed=9)
    missing = load_published(tmp_path / "mae_pretrain.pth", again)
    assert missing
    assert all(name.startswith("decoder.") for name in missing)
    assert torch.equal(again.encoder.blocks[0].attn.qkv.weight, tiny_model.encoder.blocks[0].attn.qkv.weight)


def test_positions_of_another_image_size_are_resampled_as_timm_does(tiny_model, tmp_path):
    from timm.layers.pos_embed import resample_abs_pos_embed

    save_file(facebook_state(tiny_model), tmp_path / "w.safetensors")
    larger = MAEShape.of({**tiny_model.shape.plain(), "image_size": 24})
    model = MaskedAutoencoder(larger)
    assert load_published(tmp_path / "w.safetensors", model) == []
    wanted = resample_abs_pos_embed(tiny_model.encoder.pos_embed.data, [6, 6], num_prefix_tokens=1)
    assert torch.equal(model.encoder.pos_embed, wanted)
    assert model.decoder.pos_embed.shape == (1, 37, 32)


def test_files_that_do_not_fit(tiny_model, tmp_path):
    wide = MAEShape.of({**tiny_model.shape.plain(), "model_args": {"depth": 2, "embed_dim": 96, "num_heads": 3}})
    save_file(facebook_state(MaskedAutoencoder(wide)), tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"checkpoint of another size: encoder.* is \(.*96.*\) there and"):
        load_published(tmp_path / "wide.safetensors", tiny_model)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "wide.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut.safetensors cannot be read: it is damaged, or not a file of weights"):
        read_tensors(tmp_path / "cut.safetensors")
    torch.save({"model": facebook_state(tiny_model), "args": argparse.Namespace(lr=1.0)}, tmp_path / "foreign.pth")
    with pytest.raises(
        UserError,
        match=r"foreign.pth is damaged, or holds more than tensors.*; if you trust it, convert it once: torch.save\(",
    ):
        read_tensors(tmp_path / "foreign.pth")
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(UserError, match="holds no VisionTransformer blocks"):
        load_published(tmp_path / "resnet.safetensors", tiny_model)
    with pytest.raises(UserError, match="no weights at"):
        read_tensors(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"no mae.json in"):
        load_mae(tmp_path)
    save_mae(tiny_model, tmp_path / "odd")
    save_file({"x": torch.zeros(1)}, tmp_path / "odd" / "model.safetensors")
    with pytest.raises(UserError, match=r"does not fit .*mae.json: .* is in one of them alone"):
        load_mae(tmp_path / "odd")
    (tmp_path / "mae.json").write_text(json.dumps({"model": "vit_tiny_patch16_224"}))
    with pytest.raises(UserError, match=r"mae.json is damaged"):
        load_mae(tmp_path)


def test_what_transformers_cannot_hold(tmp_path):
    sizes = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    shape = MAEShape("vit_base_patch16_siglip_224", 32, model_args={"depth": 1}, **sizes)
    with pytest.raises(UserError, match="exactly one class token"):
        export_transformers(MaskedAutoencoder(shape), tmp_path)
    args = {"depth": 1, "embed_dim": 48, "num_heads": 3, "qkv_bias": False}
    with pytest.raises(UserError, match="no biases in its attention but the decoder has"):
        export_transformers(
            MaskedAutoencoder(MAEShape("vit_tiny_patch16_224", 32, 4, model_args=args, **sizes)), tmp_path
        )
