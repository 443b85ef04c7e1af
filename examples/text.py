"""From text files to a small RoBERTa: a tokenizer, shards, pretraining with R2MAE, and the model in transformers."""

import tempfile
from pathlib import Path

from r2mae_text import load_pretrained
from r2mae_text.data.prepare import prepare
from r2mae_text.options import Prepare, Pretrain
from r2mae_text.pretrain import pretrain

HERE = Path(__file__).resolve().parents[1]

with tempfile.TemporaryDirectory() as folder:
    home = Path(folder)
    # Any text will do; here the project's own pages.
    pages = [*sorted((HERE / "docs").rglob("*.md")), *sorted(HERE.glob("packages/*/README.md"))]
    prepare(Prepare(tuple(pages), vocab_size=600, validation_share=0.2, workers=1, out=home / "corpus", progress=False))
    config = Pretrain(
        home / "corpus", mask_ratio="r2mae", model="tiny", length=32, batch_size=32, steps=150, lr=3e-3, dropout=0.0,
        device="cpu", out=home / "run", progress=False,
        model_args={"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 2},
    )  # fmt: skip
    run = pretrain(config)
    for record in run.results():
        print(f"{record.metric}: {record.value:.3f} nats on {record.n} held-out rows")
    model, tokenizer = load_pretrained(run.path)  # ordinary transformers objects
    print(type(model).__name__, f"with {model.num_parameters():,} parameters and {len(tokenizer):,} tokens")
    # An untrained model is at the logarithm of the vocabulary, 6.4 nats.
    assert run.results()[0].value < 6.0
