"""Nothing that is read back is trusted, nothing that was there is lost: of every kind of fault, small cases."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dna_files import MAF, files_of, published, vcf, zipped
from r2mae_core import BusyError, UserError
from r2mae_dna import score as scoring
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import prepare, read_info
from r2mae_dna.options import Demo, Evaluate, Prepare, Pretrain, Probe, Score
from r2mae_dna.pretrain import pretrain
from r2mae_dna.probe import probe
from r2mae_dna.score import score_variants

# Options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prepare(Path("s"), window=1), "--window must be at least 2 and at most 1536, got 1"),
        (lambda: Prepare(Path("s"), step=0), "--step must be at least 1"),
        (lambda: Prepare(Path("s"), quantile=1.5), "--quantile must be at least 0 and at most 1"),
        (lambda: Prepare(Path("s"), seed=10**30), "--seed must be at least 0"),
        (lambda: Pretrain(Path("w"), lr=float("nan")), "--lr must be a finite number, got nan"),
        (lambda: Pretrain(Path("w"), patience=0), "--patience must be at least 1"),
        (lambda: Pretrain(Path("w"), checkpoint_every=-1), "--checkpoint_every must be at least 1"),
        (lambda: Pretrain(Path("w"), validation_ratios=()), "--validation_ratios is empty"),
        (lambda: Pretrain(Path("w"), validation_ratios=(0.15, 0.15)), "--validation_ratios names 0.15 twice"),
        (lambda: Pretrain(Path("w"), n_hidden=10**12), "--n_hidden must be at least 1 and at most 65536"),
        (lambda: Probe(Path("r"), Path("w"), ratios=(0.0,)), "--ratios must be above 0 and at most 1"),
        (lambda: Score("r", Path("s"), Path("v"), batch_size=-5), "--batch_size must be at least 1"),
        (lambda: Evaluate(Path("t"), max_fpr=0.0), "--max_fpr must be above 0"),
        (lambda: Evaluate(Path("t"), scores=("a", "a")), "--scores names a twice"),
        (lambda: Demo(seeds=()), "--seeds is empty"),
    ],
)
def test_options_out_of_their_bounds_are_refused(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


# An output is never an input, and never somebody else's file


def test_an_output_is_never_an_input(toy, toy_model, tmp_path):
    store, codes = toy
    source = vcf(tmp_path / "v.vcf", codes)
    (tmp_path / "link.vcf").symlink_to(source)
    (tmp_path / "x.maf").write_text(MAF)
    prepare(Prepare(store, out=tmp_path / "w", window=64))
    before = files_of(tmp_path)
    score = Score("frequencies", store, source, progress=False, overwrite=True)
    model = replace(score, model=str(toy_model[0]))
    for write in (
        lambda: score_variants(replace(score, out=source)),
        lambda: score_variants(replace(score, out=tmp_path / "link.vcf")),
        lambda: score_variants(replace(score, out=store / "o.vcf")),
        lambda: score_variants(replace(model, out=toy_model[0] / "o.vcf")),
        lambda: build_alignment([tmp_path / "x.maf"], tmp_path / "x.maf", reference="hg", overwrite=True),
        lambda: prepare(Prepare(store, out=store, overwrite=True)),
        lambda: prepare(Prepare(store, out=store / "w", window=64)),
        lambda: pretrain(Pretrain(tmp_path / "w", out=tmp_path / "w", device="cpu")),
        lambda: probe(Probe(toy_model[0], tmp_path / "w", out=toy_model[0] / "probe", device="cpu")),
    ):
        with pytest.raises(UserError, match="input"):
            write()
    assert files_of(tmp_path) == before


def test_only_what_the_same_command_wrote_is_replaced_and_only_when_told(toy, tmp_path):
    store, codes = toy
    source, out = vcf(tmp_path / "v.vcf", codes), tmp_path / "o.vcf"
    out.write_text("mine")
    score = Score("frequencies", store, source, out=out, progress=False)
    with pytest.raises(UserError, match="give --overwrite to replace it"):
        score_variants(score)
    assert out.read_text() == "mine"
    score_variants(replace(score, overwrite=True))
    assert "R2MAE_LLR=" in out.read_text()
    (tmp_path / "x.maf").write_text(MAF)
    folder = tmp_path / "somebodys"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"holds thesis\.txt, which is not of"):
            prepare(Prepare(store, out=folder, overwrite=overwrite))
        with pytest.raises(UserError, match=r"holds thesis\.txt, which is not of"):
            build_alignment([tmp_path / "x.maf"], folder, reference="hg", overwrite=overwrite)
    assert files_of(folder) == {folder / "thesis.txt": b"mine"}
    build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg")
    before = files_of(tmp_path / "s")
    with pytest.raises(UserError, match="holds an alignment store; give --overwrite"):
        build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg")
    with pytest.raises(UserError, match="is in no block"):
        build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="mm", overwrite=True)
    assert files_of(tmp_path / "s") == before  # what fails replaces nothing
    build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="pt", overwrite=True)
    assert AlignmentStore(tmp_path / "s").species == ("pt", "hg")


HOLD = "import fcntl,sys,time\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint(flush=True)\ntime.sleep(60)"


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl")
def test_a_second_writer_is_refused(toy, tmp_path):
    store, codes = toy
    source = vcf(tmp_path / "v.vcf", codes)
    (tmp_path / "x.maf").write_text(MAF)
    for name, write in {
        "o.vcf": lambda out: score_variants(Score("frequencies", store, source, out=out, progress=False)),
        "w": lambda out: prepare(Prepare(store, out=out)),
        "s": lambda out: build_alignment([tmp_path / "x.maf"], out, reference="hg"),
    }.items():
        command = [sys.executable, "-c", HOLD, str(tmp_path / f".{name}.lock")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            try:
                assert other.stdout is not None
                other.stdout.readline()
                with pytest.raises(BusyError):
                    write(tmp_path / name)
            finally:
                other.kill()
        assert not (tmp_path / name).exists()
        write(tmp_path / name)  # its lock went with it


# Resume and reuse go by content


def cut_scoring(config, monkeypatch, after=2):
    """Score, and be interrupted after some stretches."""
    calls, original = [], scoring.run_scorer

    def cut(stretch, scorer, batch):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return original(stretch, scorer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "run_scorer", cut)
        with pytest.raises(KeyboardInterrupt):
            score_variants(config)
    assert len(list(config.out.parent.glob(f".{config.out.name}.parts/*/*.npz"))) == after


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_scores_of_another_store_with_the_same_names_and_lengths_are_never_mixed(toy, tmp_path, monkeypatch, kind):
    codes = toy[1]
    other = codes.copy()
    other[:, 1:] = np.where(other[:, 1:] > 0, other[:, 1:] % 4 + 1, 0)
    source = vcf(tmp_path / "v.vcf", codes)
    stores = {"a": published(tmp_path / "a" / "89.zarr", codes), "b": published(tmp_path / "b" / "89.zarr", other)}
    if kind == "zip":
        stores = {name: zipped(store) for name, store in stores.items()}
    assert AlignmentStore(stores["a"]).digest != AlignmentStore(stores["b"]).digest
    config = Score("frequencies", stores["a"], source, out=tmp_path / "cut.vcf", chunk=30, progress=False)
    cut_scoring(config, monkeypatch)
    score_variants(replace(config, msa=stores["b"]))
    score_variants(replace(config, msa=stores["b"], out=tmp_path / "whole.vcf"))
    assert (tmp_path / "cut.vcf").read_text() == (tmp_path / "whole.vcf").read_text()


def test_a_moved_or_copied_store_keeps_its_digest(toy, tmp_path):
    own, other = toy[0], published(tmp_path / "p" / "89.zarr", toy[1])
    for store in (own, other):
        copied = shutil.copytree(store, tmp_path / "copies" / store.name, copy_function=shutil.copyfile)
        assert AlignmentStore(copied).digest == AlignmentStore(store).digest


def test_interrupted_scoring_goes_on_whatever_was_left_of_it(toy, tmp_path, monkeypatch):
    store, codes = toy
    source = vcf(tmp_path / "v.vcf", codes)
    config = Score("frequencies", store, source, out=tmp_path / "cut.vcf", chunk=30, progress=False)
    score_variants(replace(config, out=tmp_path / "whole.vcf"))
    cut_scoring(config, monkeypatch)
    first, second = sorted((tmp_path / ".cut.vcf.parts").rglob("*.npz"))
    first.write_bytes(first.read_bytes()[:-30])  # torn, or with another bit
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("v.vcf", "toy", ".cut.vcf.parts"):
        shutil.move(tmp_path / name, moved / name)
    score_variants(replace(config, msa=moved / "toy", variants=moved / "v.vcf", out=moved / "cut.vcf"))
    assert (moved / "cut.vcf").read_text() == (tmp_path / "whole.vcf").read_text()


def test_a_wrong_build_is_noticed_in_what_was_scored_before(toy, tmp_path, monkeypatch):
    store, codes = toy
    wrong = np.concatenate([np.roll(codes, 1, axis=0)[:91], codes[91:]])  # in all stretches but the last
    source = vcf(tmp_path / "v.vcf", wrong, range(2, 101))
    config = Score("frequencies", store, source, out=tmp_path / "o.vcf", chunk=30, progress=False)
    cut_scoring(replace(config, force=True), monkeypatch, after=3)
    with pytest.raises(UserError, match="wrong genome build"):
        score_variants(config)


def test_variants_that_change_while_they_are_scored_are_noticed(toy, tmp_path, monkeypatch):
    store, codes = toy
    source, original = vcf(tmp_path / "v.vcf", codes), scoring.run_scorer

    def change(stretch, scorer, batch):
        os.utime(source, (1, 1))
        return original(stretch, scorer, batch)

    monkeypatch.setattr(scoring, "run_scorer", change)
    with pytest.raises(UserError, match=r"v\.vcf was changed since; it was changed while it was scored"):
        score_variants(Score("frequencies", store, source, out=tmp_path / "o.vcf", progress=False))
    assert not (tmp_path / "o.vcf").exists()


def test_the_windows_of_two_stores_have_two_digests(toy, tmp_path):
    other = toy[1].copy()
    other[5, 2] = 0
    digests = [
        read_info(prepare(Prepare(published(tmp_path / name, codes), out=tmp_path / f"{name}-w", window=64))).digest
        for name, codes in (("a", toy[1]), ("b", other), ("c", toy[1]))
    ]
    assert digests[0] == digests[2] != digests[1]


def test_what_is_there_is_kept_if_it_is_the_same_and_refused_if_not(toy, tmp_path, call):
    (tmp_path / "x.maf").write_text(MAF)
    build = ("msa", "build", "hg", "x.maf", "--out", "s", "--no-progress")
    assert call(*build)[0] == 0
    before = files_of(tmp_path / "s")
    assert "Done before: s was made by the same command" in call(*build)[1]
    code, _, err = call(*build, "--species", "pt")
    assert code == 1
    assert "species was [] there and is ['pt'] here; give --overwrite to replace it" in err
    (tmp_path / "x.maf").write_text(MAF + "\n")
    code, _, err = call(*build)
    assert code == 1
    assert "s was made from other data: x.maf was 48 bytes and is 49 bytes; give --overwrite" in err
    assert files_of(tmp_path / "s") == before
    cut = Prepare(toy[0], out=tmp_path / "w", window=64)
    assert prepare(cut) == prepare(cut)
    with pytest.raises(UserError, match="step was 64 there and is 32 here"):
        prepare(replace(cut, step=32))
    with pytest.raises(UserError, match="was made from other data: the alignment store was "):
        prepare(replace(cut, msa=published(tmp_path / "p", toy[1])))
    assert read_info(prepare(replace(cut, step=32, overwrite=True))).step == 32


# A full disk


def test_a_full_disk_ends_in_one_message_and_leaves_nothing(toy, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "x.maf").write_text(MAF)
    before = files_of(tmp_path)
    build = lambda: build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg")  # noqa: E731
    cut = lambda: prepare(Prepare(toy[0], out=tmp_path / "w"))  # noqa: E731
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        for write, message in ((build, "building s needs 120 bytes"), (cut, "a folder of 2 windows needs 768 bytes")):
            with pytest.raises(UserError, match=f"{message} in .*, where 100 bytes are free"):
                write()
    if hasattr(os, "posix_fallocate"):  # allocated before it is mapped: a hole that cannot be filled is a SIGBUS
        with monkeypatch.context() as patch:
            patch.setattr("os.posix_fallocate", full)
            for write, message in (
                (build, r"cannot write .*\.s\.build.*: the disk or the quota is full"),
                (cut, "codes.npy needs"),
            ):
                with pytest.raises(UserError, match=message):
                    write()
    assert files_of(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy", "x.maf"]


def test_what_a_killed_command_left_is_removed_by_the_next_one(toy, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    from r2mae_core.lab.files import host_name

    (tmp_path / "x.maf").write_text(MAF)
    for name, write in {
        "s": lambda out: build_alignment([tmp_path / "x.maf"], out, reference="hg"),
        "w": lambda out: prepare(Prepare(toy[0], out=out)),
    }.items():
        left = tmp_path / f".partial-{name}-{host_name()}-{child.pid}-abcdefgh"
        left.mkdir()
        (left / "codes").write_bytes(b"hundreds of gigabytes")
        write(tmp_path / name)
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "toy", "w", "x.maf"]
