"""An alignment model of human and three apes, and its scores of real variants of chromosome 22."""

import tempfile
from pathlib import Path

from r2mae_dna import score_variants
from r2mae_dna.data.samples import prepare_apes
from r2mae_dna.evaluate import evaluate_table
from r2mae_dna.options import Evaluate, Pretrain, Score
from r2mae_dna.pretrain import pretrain

with tempfile.TemporaryDirectory() as folder:
    home = Path(folder)
    store, windows, variants = prepare_apes(home)  # bundled: a real alignment, and variants of the 1000 Genomes
    config = Pretrain(
        windows, mask_ratio="r2mae", n_hidden=32, n_layers=1, n_heads=2, dropout=0.0, steps=60, batch_size=32, lr=3e-3,
        warmup=0.1, device="cpu", out=home / "run", progress=False,
    )  # fmt: skip
    run = pretrain(config)
    scored = home / "scored.vcf"
    score_variants(Score(str(run.path), store, variants, out=scored, min_defined=1.0, device="cpu", progress=False))
    records, *_ = evaluate_table(Evaluate(scored, preset="rare-common", scheme="r2mae", bootstrap=0))
    for record in records:
        print(f"{record.metric}: {record.value:.3f} on {record.n:,} variants, rare against common")
    assert next(record.value for record in records if record.metric == "auroc") > 0.5
