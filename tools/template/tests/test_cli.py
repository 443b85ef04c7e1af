import pytest
from r2mae_NAME.cli import main


def call(*argv):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    return stop.value.code


def test_two_schemes_are_pretrained_and_compared(table, capsys):
    words = ("--device", "cpu", "--no-progress", "--steps", 30)
    for name in ("r2mae", "fixed"):
        assert call("pretrain", table, "-c", "small", "--mask_ratio", name, "--out", name, *words) == 0
    assert "Pretraining a masked autoencoder on 270 rows of 12 features" in capsys.readouterr().out
    assert call("compare", "r2mae", "fixed", "--csv") == 0
    out = capsys.readouterr().out
    assert "r2mae,rows,loss@0.5," in out
    assert "fixed 0.5,rows,loss@0.5," in out


def test_help_and_failures(capsys):
    assert call("pretrain", "--help") == 0
    assert "--mask_ratio" in capsys.readouterr().out
    assert call("pretrain", "missing.npy") == 1
    assert "missing.npy is not there" in capsys.readouterr().err
