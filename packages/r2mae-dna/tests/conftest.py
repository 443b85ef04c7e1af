import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests hold on any machine; GPU checks are benchmarks
sys.path.append(str(Path(__file__).parent))  # what several test files share is in dna_files.py
torch.set_num_threads(1)  # small tensors; threads would only wait for each other


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default run folder never lands in the checkout


@pytest.fixture(scope="session")
def apes(tmp_path_factory):
    """The bundled human-ape store, its windows, and the VCF of rare and common variants."""
    from r2mae_dna.data.samples import prepare_apes

    return prepare_apes(tmp_path_factory.mktemp("apes"))


@pytest.fixture(scope="session")
def vertebrates(tmp_path_factory):
    """The bundled vertebrate store and its windows, the last 23 kb held out."""
    from r2mae_dna.data.build import build_alignment
    from r2mae_dna.data.samples import VERTEBRATES, sample_path
    from r2mae_dna.data.windows import prepare
    from r2mae_dna.options import Prepare

    home = tmp_path_factory.mktemp("vertebrates")
    build_alignment([sample_path(VERTEBRATES)], home / "store", reference="mm9")
    prepare(Prepare(home / "store", out=home / "windows", validation_regions="chr10:3,215,001-3,237,798"))
    return home / "store", home / "windows"


@pytest.fixture
def call(capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""
    from r2mae_dna.cli import main

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture
def toy(tmp_path):
    """A store of 300 bases and two other species, and its columns; soft-masked from 100 to 120, N at 200."""
    from r2mae_dna.data.codes import SOFT_MASK
    from r2mae_dna.data.store import StoreWriter

    rng = np.random.default_rng(0)
    codes = rng.integers(1, 5, (300, 3)).astype(np.uint8)
    codes[:, 1] = np.where(rng.random(300) < 0.9, codes[:, 0], codes[:, 1])
    codes[100:120, 0] |= SOFT_MASK
    codes[200, 0] = 0
    writer = StoreWriter(tmp_path / "toy", ["hg", "pt", "mm"])
    writer.write("7", codes)
    writer.close()
    return tmp_path / "toy", codes


@pytest.fixture
def toy_model(tmp_path):
    """A run folder with a random model for the toy store."""
    from r2mae_dna.model import AlignmentModel, ModelConfig
    from r2mae_dna.weights import save_model

    model = AlignmentModel(ModelConfig(2, 32, 2, 2, 64, 0.0), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    save_model(model, tmp_path / "toy-model" / "model", ["hg", "pt", "mm"])
    return tmp_path / "toy-model", model.eval()
