import pytest

from r2mae_core import read_records, scheme_name
from r2mae_text.options import Reproduce
from r2mae_text.paper import DINKYTRAIN, TABLE2, grid, mean_ranks, normalised_errors, reproduce


@pytest.mark.parametrize("size", ["medium", "base"])
def test_the_printed_ranks_follow_from_the_printed_accuracies(size):
    assert mean_ranks(size) == {name: row[-1] for name, row in TABLE2[size].items()}


def test_figure_1fs_form():
    curve = {ratio: row[0] for ratio, row in DINKYTRAIN.items()}
    errors = normalised_errors(curve)
    slope = (errors[0.3] - errors[0.15]) / 0.15
    assert errors[0.15] - 0.15 * slope == pytest.approx(0)
    assert errors[0.8] - errors[0.4] == pytest.approx(1)
    assert sorted(errors, key=errors.get) == sorted(curve, key=curve.get, reverse=True)
    with pytest.raises(ValueError, match=r"needs the accuracy at ratios \[0.8\]"):
        normalised_errors({0.15: 80, 0.3: 81, 0.4: 80})


def test_the_grid_is_the_papers():
    cells = grid(Reproduce("table2"))
    assert [(size, scheme_name(sampler, "text")) for size, sampler in cells][:5] == [
        ("medium", s) for s in ("fixed 0.15", "high 0.4", "mdlm", "dynamic", "r2mae")
    ]
    assert len(cells) == 10
    assert [sampler.sample(0, 10) for _, sampler in cells[:2]] == [0.15, 0.4]
    assert len(grid(Reproduce("fig2c"))) == 16


def test_published_figures_need_no_corpus(capsys):
    assert reproduce(Reproduce("table2")) is None
    out = capsys.readouterr().out
    assert "R2MAE (Ours)" in out
    assert out.count("1.25") == 4
    assert reproduce(Reproduce("fig1f")) is None
    assert "0.15" in capsys.readouterr().out


def tiny_grid(corpus, tmp_path, target, **changes):
    import json

    for split in ("train", "validation"):
        file = tmp_path / "glue" / "sst2" / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"sentence": f"the {('union', 'congress')[i % 2]} {i}", "label": i % 2} for i in range(64)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "models": ("tiny",), "tasks": ("sst2",), "tokens": 16 * 32 * 3, "batch_size": 16, "length": 32, "epochs": 1,
        "seeds": (0,), "device": "cpu", "progress": False, "out": tmp_path / "run",
    }  # fmt: skip
    return Reproduce(target, corpus.path, str(tmp_path / "glue"), **{**settings, **changes})


def test_a_tiny_grid_is_walked_once(corpus, tmp_path, capsys):
    run = reproduce(tiny_grid(corpus, tmp_path, "table2"))
    records = read_records(run.path)
    assert {r.scheme for r in records} == set(TABLE2["base"])
    assert {r.task for r in records if r.metric == "accuracy"} == {"tiny sst2"}
    assert (run.path / "table2.md").read_text().count("\n| ") == 7
    assert {f.name for f in run.path.iterdir() if f.is_dir()} == {
        f"tiny-{name}-0" for name in ("fixed-0.15", "high-0.4", "mdlm", "dynamic", "r2mae")
    }
    assert "[1/5] tiny-fixed-0.15-0: " in (out := capsys.readouterr().out)
    assert "done before" not in out
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*.safetensors")}
    assert len(before) == 5
    reproduce(tiny_grid(corpus, tmp_path, "table2"))
    assert capsys.readouterr().out.count(": done before\n") == 5
    assert before == {file: file.stat().st_mtime_ns for file in run.path.rglob("*.safetensors")}


def test_the_papers_values_stand_beside_ours(corpus, tmp_path):
    from r2mae_core import Record
    from r2mae_text.paper import _beside_the_papers

    record = _beside_the_papers(Record("qqp", "accuracy", 0.9, "r2mae", 0, 10), "medium")
    assert (record.task, record.paper) == ("medium qqp", pytest.approx(0.901))
    assert _beside_the_papers(Record("rte", "accuracy", 0.9, "r2mae", 0, 10), "medium").paper is None


def test_the_figure_is_drawn_over_the_ratios(corpus, tmp_path):
    run = reproduce(tiny_grid(corpus, tmp_path, "fig2c", ratios=(0.15, 0.4)))
    assert (run.path / "figures" / "fig2c.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_dry_run_measures_and_writes_nothing(corpus, tmp_path, capsys):
    config = tiny_grid(corpus, tmp_path, "table2", dry_run=True)
    assert reproduce(config) is None
    out = capsys.readouterr().out
    assert out.count("h of pretraining") == 5
    assert "5 models, about" in out
    assert not (tmp_path / "run").exists()
