import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from r2mae_core import UserError
from r2mae_dna.data.codes import MASK
from r2mae_dna.model import AlignmentModel, ModelConfig, both_strands, rotary_table, rotate
from r2mae_dna.weights import load_model, save_model, to_published

SHAPE = ModelConfig(n_species=7, n_hidden=64, n_layers=3, n_heads=4, intermediate=160, dropout=0.1)


def random_codes(n=4, length=128, species=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (n, length, species + 1), dtype=torch.uint8, generator=generator)


def noisy(shape=SHAPE, seed=0):
    """A model whose every parameter matters, biases and norms too."""
    model = AlignmentModel(shape, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """The published network's own code, with the weights that we saved."""
    gpn = pytest.importorskip("gpn")
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    gpn.register_auto_classes("gpn")
    folder = tmp_path_factory.mktemp("published")
    model = noisy()
    save_model(model, folder, None)
    reference, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model, reference.eval(), folder


def theirs(reference, codes):
    return reference(input_ids=codes[..., 0].long(), aux_features=codes[..., 1:]).logits


@torch.no_grad()
def test_all_logits_equal_those_of_gpn(oracle):
    model, reference, _ = oracle
    codes = random_codes(6)
    codes[:, 5::7, 0] = MASK
    expected = theirs(reference, codes)
    assert expected.abs().max() > 1.0
    assert torch.allclose(model(codes), expected, atol=1e-4, rtol=0)


def test_gradients_equal_those_of_gpn(oracle):
    model, reference, _ = oracle
    codes, labels = random_codes(3), torch.randint(1, 5, (3 * 128,), generator=torch.Generator().manual_seed(1))
    for network, logits in ((model, model(codes)), (reference, theirs(reference, codes))):
        network.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels).backward()
    layer = reference.model.encoder.layer[1]
    for ours, other in [
        (model.layers[1].qkv.weight.grad[:64], layer.attention.self.query.weight.grad),
        (model.layers[1].up.weight.grad, layer.intermediate.dense.weight.grad),
        (model.head.dense.weight.grad, reference.cls.predictions.transform.dense.weight.grad),
    ]:
        assert torch.allclose(ours, other, atol=1e-6)


def test_the_papers_network_has_its_number_of_parameters():
    # gpn counts 85,651,212: under transformers 5 the six output biases exist twice.
    assert AlignmentModel(ModelConfig.sized("base", 89)).n_parameters == 85_651_206


def test_a_published_checkpoint_loads_from_either_file(oracle, tmp_path):
    model, reference, folder = oracle
    state = reference.state_dict()
    assert {name for name in state if "embed_positions" not in name} <= set(to_published(model))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text((folder / "config.json").read_text())
    old = {name: value for name, value in state.items() if name != "cls.predictions.decoder.bias"}  # as published
    torch.save(old, tmp_path / "bin" / "pytorch_model.bin")
    codes = random_codes(2)
    with torch.no_grad():
        for source in (folder, tmp_path / "bin"):
            loaded = load_model(source)
            assert torch.equal(loaded.model(codes), model(codes))
            assert loaded.species is None


def test_some_positions_are_the_same_positions_of_all():
    model, codes = noisy(), random_codes(3)
    positions = torch.tensor([[0, 64, 127], [5, 6, 7], [1, 100, 126]])
    with torch.no_grad():
        every = model(codes)
        expected = every.gather(1, positions[..., None].expand(-1, -1, 6))
        assert torch.allclose(model(codes, positions), expected, atol=1e-5)


def test_some_places_are_the_same_places_of_all_and_so_are_their_gradients():
    model, codes = noisy(), random_codes(3)
    positions = torch.tensor([[0, 64, 127], [5, 6, 7], [1, 100, 126]])
    places = torch.tensor([0, 1, 2, 3, 6, 7])  # three of the first window, one of the second, two of the third
    every, found = [], []
    for results, chosen in ((every, None), (found, places)):
        model.zero_grad()
        hidden = model.encode(codes, positions, chosen)
        logits = model.head(hidden if chosen is not None else hidden.flatten(0, 1)[places])
        (logits * torch.arange(36.0).view(6, 6).sin()).sum().backward()
        results += [logits.detach(), *(p.grad.clone() for p in model.parameters())]
    assert found[0].shape == (6, 6)
    for a, b in zip(every, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_rotary_table_is_the_formula():
    table = rotary_table(10, 8)
    for position in (0, 3, 9):
        for i in range(4):
            angle = torch.tensor(position / 10_000 ** (2 * i / 8), dtype=torch.float64)
            assert table[0, position, i].item() == pytest.approx(angle.cos().item(), abs=1e-6)
            assert table[1, position, i].item() == pytest.approx(angle.sin().item(), abs=1e-6)


def test_both_ways_to_rotate_are_one():
    x = torch.randn(2, 10, 3, 8, generator=torch.Generator().manual_seed(0))
    table = rotary_table(10, 8)
    real = rotate(x.double(), table.double())  # not float32, so pair by pair
    assert torch.allclose(rotate(x, table), real.float(), atol=1e-6)
    positions = torch.tensor([[0, 3], [9, 1]])
    own = rotate(x.gather(1, positions[..., None, None].expand(-1, -1, 3, 8)), table[:, positions])
    assert torch.allclose(own, real.float().gather(1, positions[..., None, None].expand(-1, -1, 3, 8)), atol=1e-6)


def test_every_species_and_its_place_matter():
    model, codes = noisy(), random_codes(1)
    with torch.no_grad():
        base = model(codes)
        for column in range(8):
            changed = codes.clone()
            changed[0, 60, column] = (changed[0, 60, column] + 1) % 5
            assert (model(changed) - base).abs().max() > 1e-3, column


def test_flops_are_those_that_torch_counts():
    model = noisy()
    for positions, count in ((None, None), (torch.tensor([[3, 64, 90]]), 3)):
        # torch 2.9 does not count the attention kernel of CPUs, but every version counts matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(random_codes(1), positions)
        assert counter.get_total_flops() == SHAPE.flops(128, count)


@torch.no_grad()
def test_both_strands_are_the_reference_protocol(oracle):
    # As gpn/msa/vep.py does it: centre 64 on the own strand, 63 on the other, mean of the two.
    model, reference, _ = oracle
    codes = random_codes(5)
    complement = torch.tensor([0, 4, 3, 2, 1], dtype=torch.uint8)
    own, other = codes.clone(), complement[codes.long()].flip(1)
    own[:, 64, 0] = other[:, 63, 0] = MASK
    expected = theirs(reference, own)[:, 64, 1:5] + theirs(reference, other)[:, 63, 1:5].flip(-1)
    assert torch.allclose(both_strands(model, codes), expected / 2, atol=1e-4)


def test_both_strands_of_the_other_strand_are_the_complement():
    # An odd window has its centre in the middle on both strands, so turning it over only swaps the bases.
    model, codes = noisy(), random_codes(4, length=31)
    turned = torch.tensor([0, 4, 3, 2, 1], dtype=torch.uint8)[codes.long()].flip(1)
    with torch.no_grad():
        assert torch.allclose(both_strands(model, turned), both_strands(model, codes).flip(-1), atol=1e-5)


def test_the_start_depends_on_the_seed_alone():
    torch.manual_seed(5)
    first = AlignmentModel(SHAPE, 3).state_dict()
    torch.manual_seed(6)
    second = AlignmentModel(SHAPE, 3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.up.weight"], AlignmentModel(SHAPE, 4).state_dict()["layers.0.up.weight"])
    assert first["layers.0.up.weight"].std().item() == pytest.approx(0.02, rel=0.05)


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="89 species need a width of at least 451, got n_hidden=256"):
        ModelConfig.sized("tiny", 89)
    with pytest.raises(UserError, match="not a multiple"):
        ModelConfig(3, 64, 2, 5)
    with pytest.raises(ValueError, match="1 \\+ 7 species"):
        noisy()(random_codes(1, species=3))


def test_a_model_that_has_scored_can_go_on_training():
    model, codes = noisy(), random_codes(2)
    with torch.inference_mode():
        both_strands(model, codes)
    model(codes).sum().backward()  # nothing of inference mode is left in it
    with pytest.raises(ValueError, match="at most 1536 bases, got 1537"):
        model(random_codes(1, length=1537))


def test_models_that_are_none_are_refused(tmp_path, oracle):
    _, _, folder = oracle
    with pytest.raises(UserError, match="no model at"):
        load_model(tmp_path)
    (tmp_path / "config.yaml").write_text("x: 1\n")
    with pytest.raises(UserError, match="its pretraining is not finished"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="of type 'bert'"):
        load_model(tmp_path)
    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        load_model(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no weight 'model\.encoder\.layer\.0"):
        load_model(tmp_path)
    torch.save({"x": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds more than tensors, numbers and strings, which .* does not load"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"rotary_value": false', '"rotary_value": true'))
    with pytest.raises(UserError, match="rotary_value is True; only False is known here"):
        load_model(tmp_path)


def test_species_in_another_order_are_refused(tmp_path):
    save_model(noisy(), tmp_path / "model", list("abcdefgh"))
    loaded = load_model(tmp_path)
    loaded.check_species(list("abcdefgh"), 7, "here")
    loaded.check_species(None, 7, "a published store")
    with pytest.raises(UserError, match="at column 2 the model has 'c' and the alignment 'd'"):
        loaded.check_species(list("abdcefgh"), 7, "here")
    with pytest.raises(UserError, match="trained on 7 species beside the reference, and here has 6"):
        loaded.check_species(list("abcdefg"), 6, "here")
