"""transformers' folder of a masked autoencoder: `config.json`, `model.safetensors` and how images are prepared."""

from pathlib import Path

from r2mae_core import as_json, save_tensors, write_text
from r2mae_vision.data.sizes import shown
from r2mae_vision.data.tensors import State
from r2mae_vision.mae.layouts import UnfitError, to_transformers
from r2mae_vision.mae.model import MaskedAutoencoder


def vitmae_state(model: MaskedAutoencoder) -> State:
    """Return the tensors under the names of transformers' ViTMAE.

    Raises:
        UnfitError: the model has what transformers' ViTMAE cannot hold (register tokens, no class token, an odd norm).
    """
    shape, encoder = model.shape, model.encoder
    if model.grid[0] != model.grid[1]:
        raise UnfitError(
            f"transformers' ViTMAE takes squares alone, not images of {shown(shape.image_size)}; timm opens them"
        )
    if encoder.num_prefix_tokens != 1 or encoder.no_embed_class or not model.has_cls:
        raise UnfitError(
            f"transformers' ViTMAE has exactly one class token, unlike {shape.model}; export to timm instead"
        )
    state: State = {}
    for name, value in model.state_dict().items():
        state |= to_transformers(name, value)
    if encoder.blocks[0].attn.qkv.bias is None:
        raise UnfitError(
            f"{shape.model} has no biases in its attention but the decoder has; ViTMAE has one setting for both"
        )
    return state


def export_transformers(model: MaskedAutoencoder, folder: Path) -> Path:
    """Write a folder that `ViTMAEForPreTraining.from_pretrained` and `ViTMAEModel.from_pretrained` load.

    Raises:
        UnfitError: the model has what transformers' ViTMAE cannot hold (register tokens, no class token, an odd norm).
    """
    state, shape, encoder = vitmae_state(model), model.shape, model.encoder
    attention = encoder.blocks[0].attn
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": attention.num_heads,
        "intermediate_size": encoder.blocks[0].mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": encoder.norm.eps,
        "image_size": shape.image_size,
        "patch_size": model.patch_size,
        "num_channels": shape.in_chans,
        "qkv_bias": attention.qkv.bias is not None,
        "decoder_num_attention_heads": shape.decoder_heads,
        "decoder_hidden_size": shape.decoder_dim,
        "decoder_num_hidden_layers": shape.decoder_depth,
        "decoder_intermediate_size": shape.decoder_dim * 4,
        "norm_pix_loss": shape.norm_pix_loss,
    }
    low, high = shape.pixel_range or (0.0, 255.0)
    # The processor divides and does not subtract; a range that begins elsewhere goes into its mean.
    mean = [value + low / (high - low) for value in shape.mean]
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": shape.image_size, "width": shape.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / (high - low),
        "do_normalize": True,
        "image_mean": mean,
        "image_std": list(shape.std),
    }
    save_tensors(state, folder / "model.safetensors")
    # Other programs read these two: without a checksum inside.
    write_text(folder / "preprocessor_config.json", as_json(processor, indent=2))
    write_text(folder / "config.json", as_json(config, indent=2))
    return folder
