import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from r2mae_core import MaskDraw, Uniform, UserError
from r2mae_vision import MAEShape, MaskedAutoencoder, split_patches
from r2mae_vision.mae.flops import forward_flops, train_flops
from r2mae_vision.mae.masking import hidden_counts, pack_patches, patch_order, split_mask
from r2mae_vision.mae.model import block_for_last, take
from r2mae_vision.mae.module import MaskedImageModule
from r2mae_vision.mae.shape import sincos_positions


@pytest.fixture(scope="module")
def images(tiny_shape):
    side = tiny_shape.image_size
    return torch.randn(6, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_loss_and_predictions_equal_those_of_transformers(tiny_shape, images, norm_pix_loss, tmp_path):
    from transformers import ViTMAEForPreTraining

    from r2mae_vision.mae.transformers_folder import export_transformers

    shape = MAEShape.of({**tiny_shape.plain(), "norm_pix_loss": norm_pix_loss})
    ours = MaskedAutoencoder(shape, seed=3).eval()
    theirs = ViTMAEForPreTraining.from_pretrained(export_transformers(ours, tmp_path)).eval()
    out = theirs(images, noise=torch.rand(6, ours.n_patches, generator=torch.Generator().manual_seed(2)))
    split = split_mask(out.mask.bool())
    loss, predicted = ours(images, split)
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-5)
    torch.testing.assert_close(predicted, take(out.logits, split.hidden), atol=1e-5, rtol=1e-5)
    # The same gradient too: summed over a weight that both have as one matrix.
    loss.backward()
    out.loss.backward()
    torch.testing.assert_close(
        ours.decoder.pred.weight.grad, theirs.decoder.decoder_pred.weight.grad, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.encoder.patch_embed.proj.weight.grad,
        theirs.vit.embeddings.patch_embeddings.projection.weight.grad,
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ("name", "side"), [("vit_tiny_patch16_224", 32), ("deit3_small_patch16_224", 32), ("vit_small_patch14_dinov2", 28),
                       ("vit_base_patch16_siglip_224", 32), ("vit_medium_patch16_gap_240", 32)]
)  # fmt: skip
def test_the_encoder_is_timms(name, side):
    """With everything visible the tokens are timm's, with and without class token, whatever its positions."""
    import timm

    shape = MAEShape(name, side, model_args={"depth": 2}, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    model = MaskedAutoencoder(shape).eval()
    images = torch.randn(2, 3, side, side)
    every = torch.stack([torch.randperm(model.n_patches) for _ in range(2)])
    tokens = model.encode(model.patchify(images), every)
    n_prefix = model.encoder.num_prefix_tokens
    arguments = {"img_size": side, "num_classes": 0, "global_pool": "", "depth": 2}
    plain = timm.create_model(name, **arguments).eval()
    plain.load_state_dict(model.encoder.state_dict())
    wanted = plain.forward_features(images)
    torch.testing.assert_close(tokens[:, :n_prefix], wanted[:, :n_prefix], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:, n_prefix:], take(wanted[:, n_prefix:], every), atol=2e-5, rtol=1e-4)


def test_positions_are_those_of_transformers():
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    theirs = build_2d_sinusoidal_position_embedding(height=5, width=5, embed_dim=24, cls_token=True)
    ours = sincos_positions(24, (5, 5), n_prefix=1)[0]
    # transformers builds rows before columns and turns the halves round where it fills its model.
    torch.testing.assert_close(ours, torch.cat([theirs[..., 12:], theirs[..., :12]], dim=-1), atol=1e-6, rtol=1e-6)


def test_the_prediction_does_not_know_the_hidden_pixels(tiny_model, images):
    split = split_patches(6, tiny_model.n_patches, 0.6, torch.Generator().manual_seed(0))
    patches = tiny_model.patchify(images)
    index = split.hidden[:, :, None].expand(-1, -1, patches.shape[2])
    other = tiny_model.unpatchify(patches.scatter(1, index, torch.randn(index.shape)))
    with torch.no_grad():
        assert torch.equal(tiny_model(images, split)[1], tiny_model(other, split)[1])
    visible = split.visible[:, :1, None].expand(-1, -1, patches.shape[2])
    third = tiny_model.unpatchify(patches.scatter(1, visible, 0.0))
    with torch.no_grad():
        assert not torch.allclose(tiny_model(images, split)[1], tiny_model(third, split)[1], atol=1e-3)


RATIOS = torch.tensor([0.0, 0.31, 0.9, 0.55, 1.0], dtype=torch.float64)
HIDDEN = [1, 5, 14, 9, 15]
"""Of 16 patches; five images, an odd number."""


def packed_images(model, *shape):
    """Return packed patches, and the mask of every image."""
    order = patch_order(5, model.grid, torch.Generator().manual_seed(5), *shape)
    packed = pack_patches(order, hidden_counts(RATIOS, 16), model.encoder.num_prefix_tokens)
    last = packed.order[:, 16 - packed.hidden.shape[1] :]
    mask = torch.zeros(5, 16, dtype=torch.bool).scatter(1, last, packed.hidden)
    assert mask.sum(1).tolist() == HIDDEN
    return packed, mask


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224", "deit3_small_patch16_224",
                                  "vit_medium_patch16_reg4_gap_256"])  # fmt: skip
def test_a_ratio_per_image_gives_each_image_the_loss_and_gradient_it_has_alone(tiny_shape, images, name):
    """With and without class token and registers, and with images that show one patch or all but one."""
    args = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    model = MaskedAutoencoder(MAEShape.of({**tiny_shape.plain(), "model": name, "model_args": args}), seed=1).eval()
    packed, mask = packed_images(model)
    errors = model.packed_errors(images[:5], packed)
    together = errors.sum(1) / torch.tensor(HIDDEN)
    alone = torch.stack([model(images[i : i + 1], split_mask(mask[i : i + 1]))[0] for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    for one, two in zip(*(torch.autograd.grad(loss.sum(), [p for p in model.parameters() if p.requires_grad])
                          for loss in (together, alone)), strict=True):  # fmt: skip
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4)


def test_an_image_among_others_does_not_see_them(tiny_model, images):
    packed, _ = packed_images(tiny_model)
    others = images[:5].clone()
    others[1:] = torch.randn_like(others[1:])
    with torch.no_grad():
        errors = [tiny_model.packed_errors(batch, packed)[0] for batch in (images[:5], others)]
    assert torch.equal(*errors)


def module_of(model, **options):
    return MaskedImageModule(model, Uniform(0.3, 0.9), lr=1e-3, **options).train()


@pytest.mark.parametrize(
    ("shape", "area"), [("independent", None), ("blocks", None), ("blocks", (0.5, 0.6)), ("inverse_blocks", (0.4, 0.5))]
)
def test_the_loss_of_a_step_with_a_ratio_per_image(tiny_model, images, shape, area):
    """The mean over all hidden patches; or, transcribed, the sum over them of loss / ratio, over all patches."""
    pixels = (images[:5] * 60 + 128).clamp(0, 255)
    _, mask = packed_images(tiny_model, shape, area)
    normalised = tiny_model.normalise(pixels)
    with torch.no_grad():
        alone = [float(tiny_model(normalised[i : i + 1], split_mask(mask[i : i + 1]))[0]) for i in range(5)]
    ratios = RATIOS.clamp(min=0.01)
    wanted = {
        "none": sum(loss * n for loss, n in zip(alone, HIDDEN, strict=True)) / sum(HIDDEN),
        "inverse_ratio": sum(
            loss
            * n
            / (r if round(16 * r) else 1 / 16)  # a patch that is hidden though none should be counts as its image
            for loss, n, r in zip(alone, HIDDEN, ratios.tolist(), strict=True)
        )
        / 80,
    }
    for weight, value in wanted.items():
        module = module_of(tiny_model, ratio_per="sample", loss_weight=weight, mask_shape=shape, block_area=area)
        draw = MaskDraw(ratios, torch.Generator().manual_seed(5), loss_weight=weight)
        assert float(module.masked_loss((pixels,), draw).detach()) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("ratio", [0.02, 0.33, 0.75, 1.0])
def test_the_loss_of_a_step_divided_by_its_ratio(tiny_model, images, ratio):
    pixels = (images * 60 + 128).clamp(0, 255)
    split = split_patches(6, 16, ratio, torch.Generator().manual_seed(2))
    normalised = tiny_model.normalise(pixels)
    patches = tiny_model.patchify(normalised)
    with torch.no_grad():
        _, predicted = tiny_model(normalised, split)
        errors = (predicted - tiny_model.targets(take(patches, split.hidden))).square().mean(-1)
    module = module_of(tiny_model, loss_weight="inverse_ratio")
    draw = MaskDraw(ratio, torch.Generator().manual_seed(2), loss_weight="inverse_ratio")
    divisor = ratio if round(16 * ratio) else 1 / 16
    wanted = float(sum(one / divisor for one in errors.flatten().double())) / (6 * 16)
    assert float(module.masked_loss((pixels,), draw).detach()) == pytest.approx(wanted, rel=1e-6)
    draw = MaskDraw(ratio, torch.Generator().manual_seed(2))
    assert float(module.masked_loss((pixels,), draw).detach()) == pytest.approx(float(errors.mean()), rel=1e-6)


def test_validation_hides_the_same_independent_patches_whatever_the_training_hides(tiny_model, images):
    pixels = (images * 60 + 128).clamp(0, 255)
    losses = set()
    for options in ({}, {"mask_shape": "blocks", "ratio_per": "sample", "loss_weight": "inverse_ratio"}):
        module = module_of(tiny_model, **options).eval()
        with torch.no_grad():
            losses.add(float(module.masked_loss((pixels,), MaskDraw(0.5, torch.Generator().manual_seed(2)))))
    assert len(losses) == 1


def test_the_last_layer_for_some_tokens_is_the_whole_layer_cut(tiny_model):
    block = tiny_model.decoder.blocks[-1]
    tokens = torch.randn(2, 9, tiny_model.shape.decoder_dim)
    torch.testing.assert_close(block_for_last(block, tokens, 4), block(tokens)[:, -4:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(block_for_last(block, tokens, 9), block(tokens), atol=1e-6, rtol=1e-5)


def test_patches_put_together_are_the_image(tiny_model, images):
    assert torch.equal(tiny_model.unpatchify(tiny_model.patchify(images)), images)


def test_reconstruction_keeps_what_is_visible(tiny_model, images):
    split = split_patches(6, tiny_model.n_patches, 0.5, torch.Generator().manual_seed(0))
    filled = tiny_model.patchify(tiny_model.reconstruct(images, split))
    patches = tiny_model.patchify(images)
    assert torch.equal(take(filled, split.visible), take(patches, split.visible))
    # With norm_pix_loss every filled-in patch gets the mean of the true one back, up to the prediction's own mean.
    assert not torch.allclose(take(filled, split.hidden), take(patches, split.hidden), atol=1e-2)


def test_the_operations_are_counted_right(tiny_shape):
    """Against torch's own counter on the same pass; it counts matrix products and attention, as we do."""
    model = MaskedAutoencoder(tiny_shape).eval()
    side = tiny_shape.image_size
    for ratio in (0.25, 0.75):
        split = split_patches(1, model.n_patches, ratio, torch.Generator().manual_seed(0))
        # torch 2.9 does not count the attention kernel of CPUs, but every version counts matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, side, side), split)
        assert forward_flops(model, ratio) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert train_flops(model, 0.5) == 3 * forward_flops(model, 0.5)


def test_vit_base_costs_what_its_matrices_say():
    with torch.device("meta"):
        model = MaskedAutoencoder(MAEShape())
    # 12 layers of 12 · 768² weights on 50 tokens, the attention among these, and 49 patches embedded.
    encoder = 2 * 12 * 12 * 768**2 * 50 + 12 * 4 * 50 * 50 * 768 + 2 * 49 * 768**2
    assert encoder == pytest.approx(8.64e9, rel=1e-3)
    assert forward_flops(model, 0.75) - encoder == pytest.approx(10.42e9, rel=1e-3)


def test_the_start_depends_on_the_seed_alone(tiny_shape):
    torch.manual_seed(1)
    first = MaskedAutoencoder(tiny_shape, seed=4).state_dict()
    torch.manual_seed(2)
    again = MaskedAutoencoder(tiny_shape, seed=4).state_dict()
    other = MaskedAutoencoder(tiny_shape, seed=5).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.mask_token"], other["decoder.mask_token"])


def test_sizes_may_be_dynamic_without_compiling_again_and_again(tiny_model, images):
    """R2MAE changes the number of visible patches at every step: torch.compile must settle for one graph."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(tiny_model, backend=counter)
    for ratio in (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9):
        compiled(images, split_patches(6, tiny_model.n_patches, ratio, torch.Generator().manual_seed(0)))
    assert counter.frame_count <= 2


def test_a_ratio_per_image_compiles_once_for_any_number_of_sequences(tiny_model, images):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(tiny_model.packed_errors, backend=counter)
    for step in range(7):
        ratios = torch.from_numpy(Uniform(0.1, 0.9).samples(step, n=6))
        order = patch_order(6, tiny_model.grid, torch.Generator().manual_seed(step))
        compiled(images, pack_patches(order, hidden_counts(ratios, 16)))
    assert counter.frame_count <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "vit_enormous"}, "timm has no model 'vit_enormous'; there are, for example,"),
        ({"model": "resnet18"}, "timm cannot build resnet18|not a plain VisionTransformer"),
        ({"model": "eva02_tiny_patch14_224"}, "not a plain VisionTransformer"),
        ({"image_size": 30}, "image size 30 is not a multiple of .* patch size 4"),
        ({"decoder_dim": 30}, "decoder_dim 30 is not a multiple of decoder_heads"),
        ({"model_args": {"deep": 3}}, "deep is not an argument of a VisionTransformer; known: embed_dim, depth,"),
        ({"model_args": {"num_heads": 0}}, "timm cannot build vit_tiny_patch16_224 with"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, "checkpoint_path is not an argument of a VisionTransformer"),
        ({"model_args": {"embed_dim": 54, "num_heads": 3}}, "multiple of 4, not 54"),
    ],
)
def test_shapes_that_cannot_be(tiny_shape, change, message):
    with pytest.raises(UserError, match=message):
        MaskedAutoencoder(MAEShape.of({**tiny_shape.plain(), **change}))
