"""Operations of a training step, counted from the shapes: the one place from which MFU is computed."""

from r2mae_vision.mae.masking import n_hidden
from r2mae_vision.mae.model import MaskedAutoencoder


def block_flops(width: int, hidden: int, n_tokens: int, n_asked: int | None = None) -> int:
    """Return the forward operations of one transformer block for one image.

    Multiplications and additions of the matrix products and of attention; norms and activations are left out.

    Args:
        width: of the tokens.
        hidden: width inside the MLP.
        n_tokens: tokens that act as keys and values.
        n_asked: tokens whose output is computed; default all.
    """
    asked = n_tokens if n_asked is None else n_asked
    query_and_projection = 2 * asked * width * 2 * width
    key_value = 2 * n_tokens * width * 2 * width
    attention = 2 * 2 * asked * n_tokens * width
    return query_and_projection + key_value + attention + 2 * 2 * asked * width * hidden


def forward_flops(model: MaskedAutoencoder, ratio: float) -> int:
    """Return the operations of one image's forward pass at a mask ratio.

    ViT-B/16 at 0.75: 8.6 · 10⁹ in the encoder and 10.4 · 10⁹ in the decoder: the light decoder is the larger part.
    """
    encoder, decoder, n = model.encoder, model.decoder, model.n_patches
    hidden = n_hidden(ratio, n)
    values = decoder.pred.out_features
    seen = n - hidden + encoder.num_prefix_tokens
    total = 2 * (n - hidden) * values * encoder.embed_dim
    total += sum(block_flops(encoder.embed_dim, block.mlp.fc1.out_features, seen) for block in encoder.blocks)
    width, shown = decoder.embed.out_features, n + int(model.has_cls)
    total += 2 * seen * encoder.embed_dim * width
    *blocks, _ = decoder.blocks
    total += len(blocks) * block_flops(width, 4 * width, shown)
    return total + block_flops(width, 4 * width, shown, hidden) + 2 * hidden * width * values


def features_flops(model: MaskedAutoencoder) -> int:
    """Return the operations of the encoder on one whole image."""
    encoder, n = model.encoder, model.n_patches
    total = 2 * n * model.decoder.pred.out_features * encoder.embed_dim
    seen = n + encoder.num_prefix_tokens
    return total + sum(block_flops(encoder.embed_dim, block.mlp.fc1.out_features, seen) for block in encoder.blocks)


def train_flops(model: MaskedAutoencoder, ratio: float) -> int:
    """Return the operations of one image's training step: forward, and twice that backward."""
    return 3 * forward_flops(model, ratio)
