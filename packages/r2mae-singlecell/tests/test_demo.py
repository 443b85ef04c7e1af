"""The demo, apart from the other commands: it takes long, and files run side by side."""

from pathlib import Path

from r2mae_core import NO_PRETRAINING, SHUFFLED_WEIGHTS, cell_name, permute_weights, read_records
from r2mae_singlecell import demo as room
from r2mae_singlecell.options import Demo


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
        "[9/9]",
        "Positive control NOT met",  # one seed is too few for a verdict
        "Figure: ",
    ):
        assert text in out
    for name in ("pearson.png", "umap.png"):
        assert (Path("demo/figures") / name).read_bytes()[:4] == b"\x89PNG"
    records = {(r.scheme, r.metric): r.value for r in read_records(Path("demo"))}
    assert records["log-norm", "balanced_accuracy"] > 0.6  # ten classes: chance is 0.1
    assert records["r2mae", "pearson@0.1"] > 0.55  # the mean profile of the training cells gets 0.527
    assert Path("demo/table.md").exists()
    for name in (NO_PRETRAINING, SHUFFLED_WEIGHTS):
        assert records[name, "balanced_accuracy"] < records["r2mae", "balanced_accuracy"]
        assert abs(records[name, "pearson@0.1"]) < 0.3


def test_a_sound_training_meets_the_positive_control_and_lost_weights_do_not(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "SCHEMES", ("r2mae",))
    monkeypatch.setattr(room, "reconstruction_pearson", lambda *arguments, **names: [])
    config = Demo(epochs=20, n_latent=16, device="cpu")

    def measured(*names):
        homes = [(name, seed, tmp_path / cell_name(name, seed)) for seed in range(3) for name in names]
        return [r for name, seed, home in homes for r in room._measure(config, name, seed, "cpu", home)]

    controls = measured("r2mae", *room.CONTROLS)  # the order of the demo's grid: the trained one first
    assert room.verdict(controls)[0].startswith("Positive control met (met on 1 of 1, needed on 1)")
    sound = room.load_run

    def lost(path, adata, device):
        model = sound(path, adata, device)
        permute_weights(model.module, 77)
        return model

    monkeypatch.setattr(room, "load_run", lost)
    broken = [*measured("r2mae"), *(record for record in controls if record.scheme != "r2mae")]
    assert room.verdict(broken)[0].startswith("Positive control NOT met (met on 0 of 1, needed on 1)")
