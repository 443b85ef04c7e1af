"""A run on the hub: the same scores from there, by this package and by gpn alone."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("huggingface_hub", reason="core's extra `hub` brings it")
sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from hub_check import Hub, code_of, push_code, run_python, sent
from r2mae_core import UserError
from r2mae_dna import AlignmentModel
from r2mae_dna.options import Pretrain
from r2mae_dna.pretrain import pretrain

CODES = "import torch\ntorch.manual_seed(5)\ncodes = torch.randint(0, 5, (2, 16, N), dtype=torch.uint8)\n"


@pytest.fixture(scope="module")
def run(apes, tmp_path_factory):
    size = {"n_hidden": 32, "n_layers": 2, "n_heads": 2, "max_windows": 16, "batch_size": 8, "steps": 2}
    out = tmp_path_factory.mktemp("pushed") / "run"
    return pretrain(Pretrain(apes[1], out=out, device="cpu", progress=False, log_every=1, **size)).path


@pytest.fixture
def model(run):
    return AlignmentModel.from_pretrained(run)


@torch.no_grad()
def test_save_and_load_gives_equal_bits(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    again = AlignmentModel.from_pretrained(tmp_path / "m")
    codes = torch.randint(0, 5, (2, 16, 1 + model.config.n_species), dtype=torch.uint8)
    assert torch.equal(again(codes), model(codes))
    assert again.origin == model.origin
    assert again.origin.window == 128
    assert again.origin.species[0] == "Hsap"
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        AlignmentModel.from_pretrained(tmp_path / "m")


@torch.no_grad()
def test_push_and_load_by_name(run, model, call, tmp_path, monkeypatch):
    pytest.importorskip("gpn")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    code, out, _ = call("push", run, "lab/apes", "--license", "mit", "--dry_run", "--out", "dry")
    assert (code, "nothing was" in out) == (0, True)
    card = Path("dry/README.md").read_text()
    assert "| reference | Hsap |" in card
    with Hub() as hub:
        env = hub.environment(tmp_path / "home")
        ours, peers = code_of(card)["r2mae-dna"], code_of(card)["gpn"]
        ours += CODES.replace("N", "model.config.n_species + 1") + "found = [code, model(codes).tolist()]"
        peers += CODES.replace("N", str(model.config.n_species + 1))
        peers += "found = model.eval()(input_ids=codes[..., 0].long(), aux_features=codes[..., 1:]).logits.tolist()"
        scope: dict = {}
        exec(CODES.replace("N", str(model.config.n_species + 1)), scope)
        expected = model(scope["codes"])
        assert run_python(push_code("r2mae_dna", run, "lab/apes") + ours, env, tmp_path) == [0, expected.tolist()]
        assert sent(hub, "lab/apes") == {file.name: file.read_bytes() for file in Path("dry").iterdir()}
        theirs = torch.tensor(run_python(peers, env, tmp_path, peers_only=True))
    assert torch.allclose(theirs, expected, atol=1e-4, rtol=0)


def test_weights_that_are_not_of_the_last_step(run, vertebrates, call, tmp_path):
    size = {"n_hidden": 152, "n_layers": 2, "n_heads": 2, "max_windows": 16, "batch_size": 8, "steps": 2}
    held_out = pretrain(Pretrain(vertebrates[1], out=tmp_path / "v", device="cpu", progress=False, **size)).path
    for place, said in ((run, False), (held_out, True)):  # the first has nothing held out
        assert call("push", place, "a/b", "--license", "mit", "--dry_run", "--out", f"dry-{said}")[0] == 0
        assert ("| weights | of the validation with the lowest" in Path(f"dry-{said}/README.md").read_text()) == said


def test_an_unfinished_run_is_refused(run, call, tmp_path):
    (tmp_path / "r").mkdir()
    for name in ("config.yaml", "facts.json", "versions.json"):
        (tmp_path / "r" / name).write_text((run / name).read_text())
    code, _, err = call("push", "r", "a/b", "--license", "mit", "--dry_run")
    assert code == 1
    assert "no finished model" in err
    assert json.loads((run / "facts.json").read_text())["program"] == "r2mae-dna"
