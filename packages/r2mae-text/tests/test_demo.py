"""The demo, apart from the other commands: it takes long, and files run side by side."""

from r2mae_core import read_records


def test_demo_does_the_whole_path(call, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})  # no processes: each would import torch again
    code, out, err = call("demo", "--steps=8", "--seeds=[0]", "--labels=64", "--device=cpu", "--out=run")
    assert (code, err) == (0, "")
    for text in ("no pretraining", "fixed 0.15", "high 0.4", "mdlm", "dynamic", "r2mae", "unigram entropy"):
        assert text in out
    assert (tmp_path / "run" / "figures" / "demo.png").stat().st_size > 30_000
    records = read_records("run")
    assert len([r for r in records if r.metric == "accuracy"]) == 6
    assert len([r for r in records if r.metric == "loss@0.15"]) == 5
