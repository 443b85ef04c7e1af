"""The masked autoencoder on a timm VisionTransformer (paper, 4.1 and C.5; He et al., 2022).

The encoder *is* timm's model: its weights load into `timm.create_model` and back. It sees the visible patches alone; a
light decoder fills in the hidden ones. Two things are left out because their result is never read: hidden patches are
not embedded, and the decoder's last layer is computed for hidden patches only.
"""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r2mae_core import CardFacts, SharedModel, UserError, derived_seed
from r2mae_vision.mae.masking import PackedPatches, PatchSplit
from r2mae_vision.mae.model_options import Level
from r2mae_vision.mae.shape import MAEShape, create_encoder, pixel_scale, set_norm_eps, sincos_positions


class Decoder(nn.Module):
    """Transformer that predicts the pixels of hidden patches from the visible ones."""

    def __init__(self, encoder_dim: int, grid: tuple[int, int], shape: MAEShape, patch_values: int, cls: bool) -> None:
        from timm.layers.norm import LayerNorm
        from timm.models.vision_transformer import Block

        super().__init__()
        width = shape.decoder_dim
        self.embed = nn.Linear(encoder_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(width, grid, n_prefix=int(cls)), requires_grad=False)
        # Not a lambda: timm hands device and dtype to the norm.
        self.blocks = nn.ModuleList(
            [Block(width, shape.decoder_heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(shape.decoder_depth)]
        )
        self.norm = LayerNorm(width)
        self.pred = nn.Linear(width, patch_values)

    def forward(self, tokens: Tensor, n_last: int) -> Tensor:
        """Return predictions (B, n_last, patch values) for the last tokens of (B, T, width)."""
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens)
        return self.pred(self.norm(block_for_last(last, tokens, n_last)))


class MaskedAutoencoder(SharedModel, nn.Module):
    """Encoder, decoder and the loss on hidden patches.

    Args:
        shape: its shape.
        seed: for initialisation.

    Raises:
        UserError: timm does not know the model, or it is not a plain VisionTransformer of this image and patch size.
    """

    hub_files = ("mae/*",)

    def __init__(self, shape: MAEShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.mean: Tensor
        self.std: Tensor
        self.encoder = create_encoder(shape)
        self.patch_size: int = self.encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = self.encoder.patch_embed.grid_size
        self.n_patches = self.grid[0] * self.grid[1]
        self.has_cls = self.encoder.cls_token is not None
        patch_values = self.patch_size**2 * shape.in_chans
        if patch_values == 1 and shape.norm_pix_loss:
            raise UserError(
                "a patch of one grey pixel has no deviation to be normalised by; add --norm_pix_loss false, or take a "
                "larger --patch_size"
            )
        if shape.decoder_dim % shape.decoder_heads:
            raise UserError(f"decoder_dim {shape.decoder_dim} is not a multiple of decoder_heads {shape.decoder_heads}")
        self.decoder = Decoder(self.encoder.embed_dim, self.grid, shape, patch_values, self.has_cls)
        for name, value in zip(("mean", "std"), pixel_scale(shape), strict=True):
            self.register_buffer(name, value, persistent=False)
        set_norm_eps(self, shape.norm_eps)
        initialise(self, torch.Generator().manual_seed(derived_seed(seed, "init")))

    def write_pretrained(self, folder: Path) -> None:
        """Write timm's folder of the encoder, with the whole model in `mae/` and, where it fits, `transformers/`."""
        from r2mae_vision.mae.sharing import write_hub_folder

        write_hub_folder(self, folder)

    @classmethod
    def read_pretrained(cls, folder: Path) -> Self:
        """Read what `write_pretrained`, `save_mae` or a run of pretrain wrote; see `load_mae`."""
        from r2mae_vision.mae.weights import load_mae

        return load_mae(folder / "mae" if (folder / "mae" / "mae.json").exists() else folder)  # pyright: ignore[reportReturnType]

    def card_facts(self) -> CardFacts:
        """Return what its card on the hub says of it."""
        from r2mae_vision.mae.sharing import card_facts

        return card_facts(self)

    def normalise(self, images: Tensor) -> Tensor:
        """Return (B, C, H, W) pixels of 0 … 255, uint8 or float, as the network reads them."""
        return (images.float() - self.mean) / self.std

    def patchify(self, images: Tensor) -> Tensor:
        """Return (B, N, patch² · C): rows of pixels within a patch, channels last, as He et al. order them."""
        b, c, (gh, gw), p = images.shape[0], images.shape[1], self.grid, self.patch_size
        return images.view(b, c, gh, p, gw, p).permute(0, 2, 4, 3, 5, 1).reshape(b, gh * gw, p * p * c)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Return images (B, C, H, W) of patches (B, N, patch² · C)."""
        b, (gh, gw), p = patches.shape[0], self.grid, self.patch_size
        pixels = patches.view(b, gh, gw, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(b, -1, gh * p, gw * p)

    def targets(self, patches: Tensor) -> Tensor:
        """Return what the decoder has to predict for patches (…, values)."""
        if not self.shape.norm_pix_loss:
            return patches
        mean, deviation = levels(patches)
        return (patches - mean) / deviation

    def embed_patches(self, patches: Tensor, index: Tensor) -> Tensor:
        """Return patch embeddings with positions, (B, V, D), of chosen patches (B, V, values)."""
        proj = self.encoder.patch_embed.proj
        # The convolution's kernel as a matrix on patches whose channels come last.
        weight = proj.weight.permute(0, 2, 3, 1).flatten(1)
        tokens = self.encoder.patch_embed.norm(F.linear(patches, weight, proj.bias))
        return tokens + self._patch_positions()[index]

    def prefix(self, n_images: int) -> Tensor:
        """Return class and register tokens with their positions, (B, n_prefix, D)."""
        encoder = self.encoder
        parts = [token for token in (encoder.cls_token, encoder.reg_token) if token is not None]
        if not parts:
            return encoder.pos_embed.new_zeros(n_images, 0, encoder.embed_dim)
        tokens = torch.cat(parts, dim=1)
        if not encoder.no_embed_class:
            tokens = tokens + encoder.pos_embed[:, : tokens.shape[1]]
        return tokens.expand(n_images, -1, -1)

    def encode(self, patches: Tensor, visible: Tensor) -> Tensor:
        """Return the encoder's tokens for the visible patches, (B, n_prefix + V, D).

        Args:
            patches: (B, N, patch² · C), normalised.
            visible: (B, V) patch numbers.
        """
        tokens = self.embed_patches(take(patches, visible), visible)
        tokens = torch.cat([self.prefix(len(patches)), tokens], dim=1)
        encoder = self.encoder
        return encoder.norm(encoder.blocks(encoder.norm_pre(encoder.pos_drop(tokens))))

    def decode(self, tokens: Tensor, split: PatchSplit) -> Tensor:
        """Return predictions for the hidden patches, (B, H, patch² · C), from the encoder's tokens."""
        decoder, n_cls = self.decoder, int(self.has_cls)
        positions = decoder.pos_embed[0]
        seen = decoder.embed(tokens)
        shown = seen[:, self.encoder.num_prefix_tokens :] + positions[split.visible + n_cls]
        asked = decoder.mask_token + positions[split.hidden + n_cls]
        parts = [seen[:, :1] + positions[:1]] if self.has_cls else []
        # Attention does not depend on the order: hidden patches come last, so the last layer can leave out the rest.
        return decoder(torch.cat([*parts, shown.to(asked.dtype), asked], dim=1), split.hidden.shape[1])

    def forward(self, images: Tensor, split: PatchSplit) -> tuple[Tensor, Tensor]:
        """Return (loss, predictions of the hidden patches).

        Args:
            images: (B, C, H, W), normalised.
            split: which patches are visible.
        """
        patches = self.patchify(images)
        predicted = self.decode(self.encode(patches, split.visible), split)
        wanted = self.targets(take(patches, split.hidden))
        return F.mse_loss(predicted.float(), wanted), predicted

    def packed_errors(self, images: Tensor, packed: PackedPatches) -> Tensor:
        """Return the errors of images that hide different numbers of patches, (B, H) float32.

        The mean squared error of each of the last H patches of `packed.order`, and 0 where it is visible. Every image
        has what it has alone: in the encoder, tokens attend to those of their own image.

        Args:
            images: (B, C, H, W), normalised.
            packed: which patches are visible, and where they are computed.
        """
        patches, encoder, decoder = self.patchify(images), self.encoder, self.decoder
        n_images, n, n_prefix = len(patches), self.n_patches, encoder.num_prefix_tokens
        tokens = self.embed_patches(patches.flatten(0, 1)[packed.patch], packed.patch % n)
        if n_prefix:
            where = packed.first[:, None] + torch.arange(n_prefix, device=tokens.device)
            prefix = self.prefix(n_images).flatten(0, 1).to(tokens.dtype)
            tokens = tokens.flatten(0, 1).index_copy(0, where.flatten(), prefix).view_as(tokens)
        together = (packed.image[:, :, None] == packed.image[:, None, :])[:, None]
        tokens = encoder.norm_pre(encoder.pos_drop(tokens))
        for block in encoder.blocks:
            tokens = block(tokens, attn_mask=together)
        seen = decoder.embed(encoder.norm(tokens)).flatten(0, 1)
        rank = torch.arange(n, device=seen.device)
        # A hidden patch reads some other token, which is not used.
        source = (packed.first[:, None] + n_prefix + rank) % len(seen)
        shown = seen.index_select(0, source.flatten()).view(n_images, n, -1)
        positions, n_cls = decoder.pos_embed[0], int(self.has_cls)
        visible = (rank < packed.n_visible[:, None])[:, :, None]
        canvas = torch.where(visible, shown, decoder.mask_token) + positions[packed.order + n_cls]
        if self.has_cls:
            canvas = torch.cat([seen.index_select(0, packed.first)[:, None] + positions[:1], canvas], dim=1)
        n_last = packed.hidden.shape[1]
        predicted = decoder(canvas, n_last)
        wanted = self.targets(take(patches, packed.order[:, n - n_last :]))
        return (predicted.float() - wanted).square().mean(-1) * packed.hidden

    @torch.no_grad()
    def reconstruct(self, images: Tensor, split: PatchSplit, level: Level = "visible") -> Tensor:
        """Return the images (B, C, H, W), normalised, with their hidden patches filled in by the model.

        A model that predicts patches without their mean and deviation does not say how bright and how rich in contrast
        they are, so a picture needs these two numbers from elsewhere.

        Args:
            images: (B, C, H, W), normalised.
            split: which patches are visible.
            level: "visible": from the visible patches, see `visible_levels`; "true": from the hidden patches
                themselves, which gives away what they look like. Without effect where the model predicts pixels.
        """
        patches = self.patchify(images)
        _, predicted = self(images, split)
        predicted = predicted.float()
        if self.shape.norm_pix_loss:
            if level == "visible":
                mean, deviation = visible_levels(patches, split, self.grid)
            else:
                mean, deviation = levels(take(patches, split.hidden))
            predicted = predicted * deviation + mean
        index = split.hidden[:, :, None].expand_as(predicted)
        return self.unpatchify(patches.scatter(1, index, predicted.to(patches.dtype)))

    def _patch_positions(self) -> Tensor:
        """Return the encoder's positions of patches, (N, D)."""
        first = 0 if self.encoder.no_embed_class else self.encoder.num_prefix_tokens
        return self.encoder.pos_embed[0, first:]


def levels(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each patch, (B, N, 1) each, as He et al. normalise by them."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def visible_levels(patches: Tensor, split: PatchSplit, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a guess of the mean and deviation of each hidden patch, (B, H, 1) each, from the visible patches alone.

    The average of those of the image's visible patches, weighted by one over the squared distance.
    """
    mean, deviation = levels(take(patches, split.visible))
    hidden, visible = (
        torch.stack([index // grid[1], index % grid[1]], dim=-1).float() for index in (split.hidden, split.visible)
    )
    weight = torch.cdist(hidden, visible).square().reciprocal()
    weight = weight / weight.sum(-1, keepdim=True)
    return weight @ mean.float(), weight @ deviation.float()


def initialise(model: MaskedAutoencoder, generator: torch.Generator) -> None:
    """Initialise as He et al. do: Xavier-uniform matrices, also for the patch embedding; tokens N(0, 0.02²)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        proj = model.encoder.patch_embed.proj
        nn.init.xavier_uniform_(proj.weight.view(len(proj.weight), -1), generator=generator)
        if proj.bias is not None:
            bound = proj.weight[0].numel() ** -0.5
            proj.bias.uniform_(-bound, bound, generator=generator)
        tokens = [model.decoder.mask_token, model.encoder.cls_token, model.encoder.reg_token]
        if model.shape.positions == "learned":
            tokens.append(model.encoder.pos_embed)
        for token in tokens:
            if token is not None:
                token.normal_(std=0.02, generator=generator)


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Return chosen rows: (B, N, D) and (B, K) → (B, K, D)."""
    return rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))


def block_for_last(block: Any, tokens: Tensor, n_last: int) -> Tensor:
    """Return a timm block's output for its last tokens only, (B, n_last, D); all tokens act as keys and values."""
    asked = tokens[:, -n_last:]
    normed = block.norm1(tokens)
    attention, width = block.attn, tokens.shape[2]
    heads, weight, bias = attention.num_heads, attention.qkv.weight, attention.qkv.bias
    query = F.linear(normed[:, -n_last:], weight[:width], bias[:width])
    key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=2)
    query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    asked = asked + attention.proj(mixed)
    return asked + block.mlp(block.norm2(asked))
