"""The demo, apart from the other commands: it takes long, and files run side by side."""

from pathlib import Path

from r2mae_core import read_records


def test_demo(call):
    code, out, err = call("demo", "--out", "demo", "--seeds", "[0]", "--epochs", 20, "--n-latent", 16)
    assert (code, err) == (0, "")
    for text in (
        "7 models",
        "700 blood cells",
        "log-norm",
        "pca 50",
        "mdlm",
        "scvi=16",
        "fixed 0.25",
        "[7/7]",
        "Figure: ",
    ):
        assert text in out
    for name in ("pearson.png", "umap.png"):
        assert (Path("demo/figures") / name).read_bytes()[:4] == b"\x89PNG"
    records = {(r.scheme, r.metric): r.value for r in read_records(Path("demo"))}
    assert records["log-norm", "balanced_accuracy"] > 0.6  # ten classes: chance is 0.1
    assert records["r2mae", "pearson@0.1"] > 0.55  # the mean profile of the training cells gets 0.527
    assert Path("demo/table.md").exists()
