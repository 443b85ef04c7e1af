"""The demo's positive control: it is met by a sound training, and by no broken one."""

from dataclasses import replace

import pytest
import torch

from r2mae_core import NO_PRETRAINING, SHUFFLED_WEIGHTS, read_records
from r2mae_vision import demo as room
from r2mae_vision.demo import HIDDEN, demo
from r2mae_vision.mnist.model import MLPAutoencoder
from r2mae_vision.options import Demo

SMALL = {"n_hidden": (96, 48), "epochs": 12, "device": "cpu", "progress": False}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(room, "SCHEMES", ("fixed", "r2mae"))
    monkeypatch.setattr(room, "CURVE", (0.2,))


def test_a_sound_training_meets_it(few, tmp_path, capsys):
    demo(Demo(out=tmp_path / "run", **SMALL))
    said = capsys.readouterr().out
    assert "Positive control met (met on 1 of 1, needed on 1)" in said
    assert "  probe_accuracy: met; the closest: " in said
    records = read_records(tmp_path / "run")
    for name in (NO_PRETRAINING, SHUFFLED_WEIGHTS):
        of_name = [record for record in records if record.scheme == name]
        assert len(of_name) == 3 * (2 + len(HIDDEN)), name
        assert {record.seed for record in of_name} == {0, 1, 2}
        assert f"| {name} | 0." in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize("fault", ["no steps are taken", "labels and images belong to others", "features are lost"])
def test_a_broken_one_does_not(few, tmp_path, capsys, monkeypatch, fault):
    options = dict(SMALL)
    if fault == "no steps are taken":
        options["lr"] = 0.0
    elif fault == "features are lost":
        monkeypatch.setattr(MLPAutoencoder, "forward", lambda self, x: self.decoder(self.encoder(x).detach()))
    else:
        real = room.evaluate_members

        def mixed(model, data, schemes, **arguments):
            order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(0))
            data = replace(data, train_labels=data.train_labels[order])
            return real(model, data, schemes, **arguments)

        monkeypatch.setattr(room, "evaluate_members", mixed)
    demo(Demo(out=tmp_path / "run", **options))
    said = capsys.readouterr().out
    assert "Positive control NOT met (met on 0 of 1, needed on 1): what was trained here cannot be told from" in said


def test_members_of_a_stack_are_its_models():
    stack = MLPAutoencoder(20, (8, 5), (0, 1, 2))
    stack.train()(torch.rand(3, 16, 20))  # moves the running statistics
    stack.eval()
    images = torch.rand(4, 20)
    part = stack.members([2, 0, 2])
    assert part.seeds == (2, 0, 2)
    assert part(images.expand(3, -1, -1)).allclose(stack(images.expand(3, -1, -1))[[2, 0, 2]], atol=1e-6)
    with torch.no_grad():
        part.encoder[0].weight.zero_()
    assert stack.encoder[0].weight.any()
