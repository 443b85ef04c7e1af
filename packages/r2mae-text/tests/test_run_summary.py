"""What core says of a run of this package."""

from r2mae_core import run_summary
from r2mae_text.cli import COMMANDS
from r2mae_text.options import Pretrain
from r2mae_text.pretrain import pretrain


def test_summary_of_a_run(corpus, tmp_path):
    args = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    options = {"model": "tiny", "model_args": args, "length": 16, "batch_size": 4, "steps": 3, "log_every": 1}
    pretrain(Pretrain(corpus.path, out=tmp_path / "run", device="cpu", progress=False, **options))
    found = run_summary(tmp_path / "run", COMMANDS)
    assert (found.program, found.command, found.scheme, found.seeds) == ("r2mae-text", "pretrain", "r2mae", (0,))
    assert found.scheme_in_words == "uniform from 0.15 to 0.4, drawn at every step (seed 0)"
    assert found.data_digest == corpus.digest
    assert [step for step, _ in found.loss] == [0, 1, 2]
    assert {row.task for row in found.evaluation} == {corpus.path.name}
    assert found.changed_options["model_args"] == args
    assert {"lr", "warmup", "dropout"}.isdisjoint(found.changed_options)
