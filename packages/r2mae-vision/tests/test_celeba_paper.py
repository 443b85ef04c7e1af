import pytest

from r2mae_core import Record, read_records
from r2mae_vision.celeba import paper
from r2mae_vision.celeba.paper import cells, optima
from r2mae_vision.cli import main
from r2mae_vision.options import ReproduceCeleba

GRID = ["--ratios", "[0.2,0.6]", "--ranges", "[[0.2,0.6]]", "--side", "16", "--batch-size", "16", "--epochs", "1",
        "--device", "cpu", "--no-progress"]  # fmt: skip


@pytest.fixture
def call(capsys):
    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main(["reproduce-celeba", *map(str, argv)])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_reproduce_does_the_grid_once_and_figures_share_their_models(call, tmp_path, celeba_root):
    fig2b = ["fig2b", "--data", celeba_root, "--base-channels", "[2,8]", "--seeds", "[0,1]", "--out", "run", *GRID]
    code, out, err = call(*fig2b)
    assert (code, err) == (0, "")
    assert "CelebA at 16 × 16: 40 train, 8 valid, 16 test" in out
    assert "[12/12] 8-Uniform-0.2-0.6-1:" in out
    assert out.count("done before") == 0
    run = tmp_path / "run"
    records = read_records(run)
    assert {r.scheme for r in records} == {"fixed 0.2", "fixed 0.6", "Uniform(0.2, 0.6)"}
    assert {r.task for r in records if "/" not in r.task} == {"celeba-2", "celeba-8"}
    best = optima(records)
    assert f"with 2 base channels at ratio {best[2]:g}\n" in out
    assert f"with 8 base channels at ratio {best[8]:g} (paper: 0.6)" in out
    assert (run / "figures" / "fig2b.png").stat().st_size > 20_000

    # The probe's figure finds the models of 8 channels; a grid may grow; what others trained stays in the results.
    assert "| Uniform(0.2, 0.6) |" in (run / "fig2b.md").read_text()
    code, out, _ = call("fig5", "--data", celeba_root, *GRID, "--ratios", "[0.2,0.6,0.8]", "--out", "run")
    assert code == 0
    assert out.count("done before") == 6
    assert "[8/8]" in out
    assert (run / "figures" / "fig5.png").stat().st_size > 20_000
    assert {r.task for r in read_records(run)} >= {"celeba-2", "celeba-8", "celeba-8/Smiling"}
    assert {r for r in read_records(run) if r.scheme != "fixed 0.8"} == set(records)


def test_an_interrupted_cell_is_trained_again_and_no_other(call, tmp_path, celeba_root, monkeypatch):
    fig2b = ["fig2b", "--data", celeba_root, "--base-channels", "[2]", "--seeds", "[0]", "--out", "run", *GRID]
    evaluate, calls = paper.evaluate_unet, []

    def interrupted(*args, **kwargs):
        calls.append(args[2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(paper, "evaluate_unet", interrupted)
    code, _, err = call(*fig2b)
    assert (code, err.lstrip()) == (1, "r2mae-vision reproduce-celeba: interrupted\n")
    calls.clear()
    calls.append("goes on")
    monkeypatch.setattr(
        paper, "evaluate_unet", lambda *args, **kwargs: calls.append(args[2]) or evaluate(*args, **kwargs)
    )
    code, out, _ = call(*fig2b)
    assert code == 0
    assert calls == ["goes on", "fixed 0.6", "Uniform(0.2, 0.6)"]
    assert out.count("done before") == 1
    # The interrupted cell was trained already: its weights come back from the checkpoint.
    assert call(*fig2b, "--out", "whole")[0] == 0
    there = {(r.scheme, r.task, r.metric): r.value for r in read_records("run")}
    assert there == {(r.scheme, r.task, r.metric): r.value for r in read_records("whole")}


def test_the_papers_grid():
    grid = cells(ReproduceCeleba("fig2b", ranges=(), seeds=(0,)))
    assert [(cell.base_channels, cell.sampler.ratio) for cell in grid] == [
        (c, r / 10) for c in (8, 16, 32) for r in range(1, 10)
    ]
    assert len({cell.name for cell in cells(ReproduceCeleba("fig2b"))}) == 3 * 12 * 2
    for target, channels in (("fig5", 8), ("fig6", 16), ("fig7", 32)):
        assert {cell.base_channels for cell in cells(ReproduceCeleba(target))} == {channels}


def test_the_optimum_is_the_smallest_mean_over_seeds_of_the_fixed_ratios():
    values = {
        ("fixed 0.2", 0): 3.0,
        ("fixed 0.2", 1): 1.0,
        ("fixed 0.6", 0): 1.9,
        ("fixed 0.6", 1): 1.9,
        ("Uniform(0.2, 0.6)", 0): 0.1,
    }
    records = [Record("celeba-16", "reconstruction_mse", v, scheme, seed, 9) for (scheme, seed), v in values.items()]
    assert optima(records) == {16: 0.6}


def test_dry_run_prints_grid_and_cost_without_any_data(call, tmp_path):
    code, out, _ = call("fig2b", "--dry-run", "--base-channels", "[2,4]", *GRID)
    assert code == 0
    assert "Models per size: fixed 0.2, fixed 0.6, Uniform(0.2, 0.6); seeds 0, 1" in out
    assert "2 base channels: 6 models, about" in out
    assert "for the 162,770 training images" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fig2b"], "fig2b needs --data DIR, a folder with img_align_celeba, list_attr_celeba.txt and"),
        (["fig2b", "--data", "."], "no list_attr_celeba.txt or list_attr_celeba.csv in ."),
        (["fig6", "--base-channels", "[8]"], "fig6 shows size 2 of --base_channels, which has 1"),
        (["fig2b", "--side", "40"], "must be a multiple of 16; got 40"),
        (["fig2b", "--ratios", "[]", "--ranges", "[]"], "the grid is empty"),
        (["fig2b", "--ratios", "[1.5]"], "--ratios must be at least 0 and at most 1, got 1.5"),
        (["fig2b", "--ranges", "[[0.6,0.2]]"], "low must not exceed high, got low=0.6, high=0.2"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(call, argv, message):
    code, _, err = call(*argv)
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1


def test_another_set_or_other_settings_in_the_folder_are_refused(call, tmp_path, celeba_root, write_celeba):
    tiny = ["fig2b", "--base-channels", "[2]", "--seeds", "[0]", *GRID, "--ranges", "[]", "--ratios", "[0.5]"]
    tiny += ["--out", "run"]
    assert call(*tiny, "--data", celeba_root)[0] == 0
    code, _, err = call(*tiny, "--data", celeba_root, "--dropout", "0.2")
    assert code == 1
    assert "dropout is 0.5 there and 0.2 here" in err
    write_celeba(tmp_path / "other", (20, 0, 5), seed=9)
    code, _, err = call(*tiny, "--data", tmp_path / "other")
    assert code == 1
    assert "holds another prepared set" in err
    code, _, err = call(*tiny, "--data", tmp_path / "other", "--cache", tmp_path / "cache")
    assert code == 1
    assert "run was made from other data: CelebA was 40 train, 8 valid, 16 test" in err
    code, out, _ = call("-c", "run/config.yaml", "--out", "run", "--no-progress")  # it replays
    assert code == 0
    assert "[1/1] 2-low-0.5-0: done before" in out
