import pytest
import torch
from torch import nn

from r2mae_core import Fixed, LinearDecay, RunFolder, Uniform, UserError, derived_seed, exact_mask, fit, scheme
from r2mae_vision import Member, MLPAutoencoder, pretrain_members

MEMBERS = [
    Member("a", Fixed(0.5), 0),
    Member("b", Uniform(0.1, 0.9, seed=1), 1),
    Member("c", LinearDecay(0.9, 0.3), 0),
]
SMALL = {"hidden": (24, 12), "epochs": 2, "batch_size": 32, "device": "cpu", "progress": False}


def plain_torch_twin(model, i):
    """The same member written with torch's own layers."""
    n_pixels, (h1, h2) = model.n_pixels, model.hidden
    net = nn.Sequential(
        nn.Linear(n_pixels, h1), nn.BatchNorm1d(h1), nn.ReLU(),
        nn.Linear(h1, h2), nn.BatchNorm1d(h2), nn.ReLU(),
        nn.Linear(h2, n_pixels), nn.Sigmoid(),
    )  # fmt: skip
    net.load_state_dict(model.single(i).state_dict())
    return net


def test_members_of_a_stack_train_exactly_as_plain_torch_models_do(tmp_path, digits):
    """Three steps of every member against an independent loop: ratios, masks, loss, batch norm, Adam."""
    from r2mae_core import BatchOrder

    start = MLPAutoencoder(64, (24, 12), tuple(m.seed for m in MEMBERS))
    stack = pretrain_members(digits, MEMBERS, RunFolder(tmp_path / "run", {}), **SMALL)
    steps = 2 * (1347 // 32)
    for i, member in enumerate(MEMBERS):
        net = plain_torch_twin(start, i)
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        order = BatchOrder(1347, 32, member.seed)
        for step in range(steps):
            images = digits.scale(digits.train_images[torch.from_numpy(order.batch(step))])
            generator = torch.Generator().manual_seed(derived_seed(member.seed, "mask", step, 0))
            mask = exact_mask(images.shape, member.sampler.sample(step, steps), generator=generator)
            error = (net(images.masked_fill(mask, 0.0)) - images)[mask].square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        images = digits.scale(digits.test_images)
        with torch.no_grad():
            ours, theirs = stack(images.expand(3, -1, -1))[i], net.eval()(images)
        assert ours.allclose(theirs, atol=2e-3), (ours - theirs).abs().max()


def test_a_member_does_not_depend_on_its_neighbours(tmp_path, digits):
    together = pretrain_members(digits, MEMBERS, RunFolder(tmp_path / "all", {}), **SMALL)
    alone = pretrain_members(digits, [MEMBERS[1]], RunFolder(tmp_path / "one", {}), **SMALL)
    images = digits.scale(digits.test_images)
    with torch.no_grad():
        assert together(images.expand(3, -1, -1))[1].allclose(alone(images[None])[0], atol=2e-3)
        assert together.single(1).eval()(images).allclose(alone(images[None])[0], atol=2e-3)


def test_single_model_is_the_stacks_member():
    torch.manual_seed(0)
    stack = MLPAutoencoder(20, (8, 5), (0, 1, 2))
    stack.train()(torch.rand(3, 16, 20))  # moves the running statistics
    stack.eval()
    images = torch.rand(6, 20)
    outputs = stack(images.expand(3, -1, -1))
    for i in range(3):
        assert stack.single(i).eval()(images).allclose(outputs[i], atol=1e-6)


def test_equal_seeds_start_equal_and_as_torch_does():
    stack = MLPAutoencoder(400, (300, 5), (7, 8, 7))
    weight = stack.encoder[0].weight
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[1])
    bound = nn.Linear(400, 300).weight.abs().max()
    assert weight.abs().max().item() == pytest.approx(bound.item(), rel=1e-3)


def test_loss_counts_hidden_pixels_only():
    stack = MLPAutoencoder(10, (4, 4), (0, 1))
    images, mask = torch.rand(2, 8, 10), torch.zeros(2, 8, 10, dtype=torch.bool)
    mask[0, :, :3] = True
    mask[1, 2, 7] = True
    outputs = stack(images.masked_fill(mask, 0.0))
    expected = [(outputs[i] - images[i])[mask[i]].square().mean() for i in range(2)]
    assert stack.masked_errors(images, mask).allclose(torch.stack(expected))


class PowerCutError(Exception):
    pass


def test_interrupted_pretraining_resumes_to_the_same_model(tmp_path, digits, monkeypatch):
    import lightning.pytorch as pl

    from r2mae_vision.mnist import pretrain as room

    class CutAt(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 60:
                raise PowerCutError

    whole = pretrain_members(digits, MEMBERS, RunFolder(tmp_path / "whole", {}), **SMALL)
    monkeypatch.setattr(room, "fit", lambda *args, **kwargs: fit(*args, callbacks=[CutAt()], **kwargs))
    with pytest.raises(PowerCutError):
        pretrain_members(digits, MEMBERS, RunFolder(tmp_path / "cut", {}), **SMALL)
    monkeypatch.undo()
    resumed = pretrain_members(digits, MEMBERS, RunFolder(tmp_path / "cut", {}), **SMALL)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_curriculum_schemes_are_refused_by_name(tmp_path, digits):
    members = [MEMBERS[0], Member("cl", scheme("cl", "vision"), 0)]
    with pytest.raises(UserError, match="no curriculum weights; leave out cl"):
        pretrain_members(digits, members, RunFolder(tmp_path / "run", {}), **SMALL)


def test_too_large_a_batch(tmp_path, digits):
    with pytest.raises(UserError, match="1347 samples do not fill a batch of 2000"):
        pretrain_members(digits, MEMBERS, RunFolder(tmp_path / "run", {}), **{**SMALL, "batch_size": 2000})
