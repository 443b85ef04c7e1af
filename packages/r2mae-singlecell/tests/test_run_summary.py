"""What core says of a run of this package."""

from r2mae_core import run_summary
from r2mae_singlecell.cli import COMMANDS


def test_summary_of_a_run(made):
    found = run_summary(made / "run", COMMANDS)
    assert (found.program, found.command, found.scheme, found.seeds) == ("r2mae-singlecell", "pretrain", "r2mae", (0,))
    assert found.scheme_in_words == "uniform from 0.1 to 0.5, drawn at every step (seed 0)"
    assert found.sources["DATA"].startswith("120 cells × 30 genes")
    assert len(found.data_digest) == 8
    assert found.loss
    assert set(found.validation) == {float(row.metric.removeprefix("loss@")) for row in found.evaluation}
    assert found.changed_options["n_latent"] == 6
    assert "lr" not in found.changed_options
