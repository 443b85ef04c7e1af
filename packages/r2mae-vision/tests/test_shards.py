"""WebDataset shards and compressed archives: read in any order, wherever they lie, and trained on with exact resume."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2mae_core import UserError
from r2mae_vision.cli import main
from r2mae_vision.data.pairs import open_pair
from r2mae_vision.data.sources import NoValidationError, open_source
from r2mae_vision.data.tars import COMPRESSED
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.pretrain import pretrain

MODES = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "tbz2": "w:bz2", "xz": "w:xz", "txz": "w:xz"}


def as_png(value):
    content = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(home, n_shards=2, n=6, suffix=".tar", mode="w"):
    home.mkdir(parents=True, exist_ok=True)
    for k in range(n_shards):
        files = []
        for i in range(n):
            number = k * n + i
            files += [(f"{number:03d}.png", as_png(10 + number)), (f"{number:03d}.cls", str(number % 3).encode())]
        write_tar(home / f"s-{k:03d}{suffix}", files, mode)
    return f"wds/{home}/s-{{000..{n_shards - 1:03d}}}{suffix}"


def brightness(source):
    return [source.read(i, 3)[0].getpixel((0, 0))[0] for i in range(len(source))]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_what_webdataset_reads(tmp_path):
    import webdataset

    pattern = write_shards(tmp_path / "shards")
    ours = open_source(pattern)
    theirs = list(webdataset.WebDataset(pattern.removeprefix("wds/"), shardshuffle=False))
    assert [(ours.file_name(i), int(ours.labels[i])) for i in range(len(ours))] == [
        (f"{sample['__key__']}.png", int(sample["cls"])) for sample in theirs
    ]
    assert [ours.reader[i].read() for i in range(len(ours))] == [sample["png"] for sample in theirs]
    assert brightness(ours) == list(range(10, 22))
    assert brightness(pickle.loads(pickle.dumps(ours))) == list(range(10, 22))
    with pytest.raises(NoValidationError):
        open_source(pattern, "val")
    train, val = open_pair(pattern, write_shards(tmp_path / "val", 1))
    assert (len(train), len(val), train.classes) == (12, 6, ("0", "1", "2"))


def test_shards_behind_fsspec(tmp_path, monkeypatch):
    write_shards(tmp_path / "shards")
    for address in ("s-{000..001}.tar", "s-*.tar"):
        source = open_source(f"wds/local://{tmp_path}/shards/{address}")
        assert brightness(source) == list(range(10, 22))
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in sorted((tmp_path / "shards").glob("*.tar")):
        memory.pipe(f"/bucket/{file.name}", file.read_bytes())
    source = open_source("wds/memory://bucket/s-*.tar")
    assert brightness(source) == list(range(10, 22))
    with pytest.raises(UserError, match=r"no shard matches|is not there|cannot be read"):
        open_source("wds/memory://bucket/t-*.tar")
    with pytest.raises(UserError, match="nothing:// cannot be read"):
        open_source("wds/nothing://bucket/t-*.tar")


def test_training_on_shards_resumes_exactly(tmp_path):
    tiny = {
        "model": "vit_tiny_patch16_224", "image_size": 16, "patch_size": 4, "decoder_dim": 32, "decoder_depth": 1,
        "decoder_heads": 2, "model_args": {"depth": 1, "embed_dim": 48, "num_heads": 3}, "batch_size": 4, "epochs": 3,
        "workers": 0, "device": "cpu", "progress": False, "checkpoint_every": 2, "log_every": 1,
    }  # fmt: skip
    pattern = write_shards(tmp_path / "shards")
    whole = pretrain(Pretrain(data=pattern, out=tmp_path / "whole", **tiny))
    import r2mae_vision.mae.pretrain as room

    step, seen = room.MaskedImageModule.masked_loss, []

    def cut(self, batch, draw):
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return step(self, batch, draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.MaskedImageModule, "masked_loss", cut)
        with pytest.raises((KeyboardInterrupt, UserError)):
            pretrain(Pretrain(data=pattern, out=tmp_path / "cut", **tiny))
    resumed = pretrain(Pretrain(data=pattern, out=tmp_path / "cut", **tiny))
    for name in ("model/model.safetensors", "metrics.csv"):
        first, second = ((run.path / name).read_bytes() for run in (whole, resumed))
        assert first == second or name == "metrics.csv"
    write_shards(tmp_path / "shards", n=5)
    with pytest.raises(UserError, match=r"s-000.tar was"):
        pretrain(Pretrain(data=pattern, out=tmp_path / "cut", **{**tiny, "epochs": 3}))


@pytest.mark.parametrize("ending", [one.rpartition(".")[2] for one in COMPRESSED])
def test_compressed_archives_and_shards(tmp_path, ending, capsys):
    files = [(f"{part}/{kind}/{i}.png", as_png(50 * k + i)) for part in ("train", "val")
             for k, kind in enumerate(("ant", "bee")) for i in range(3)]  # fmt: skip
    name = next(one for one in COMPRESSED if one.endswith(ending))
    archive, pattern = tmp_path / f"set{name}", f"wds/{tmp_path}/w-*{name}"
    if ending in ("zst", "tzst"):
        zstandard = pytest.importorskip("zstandard")
        for path, content in ((archive, files), (tmp_path / f"w-0{name}", [("1.png", as_png(7))])):
            write_tar(tmp_path / "plain.tar", content)
            plain = (tmp_path / "plain.tar").read_bytes()  # in two frames, as several threads write them
            path.write_bytes(zstandard.compress(plain[:700]) + zstandard.compress(plain[700:]))
    else:
        write_tar(archive, files, MODES[ending])
        write_tar(tmp_path / f"w-0{name}", [("1.png", as_png(7))], MODES[ending])
    train, val = open_pair(str(archive))
    assert (len(train), len(val), train.classes) == (6, 6, ("ant", "bee"))
    assert brightness(train) == [0, 1, 2, 50, 51, 52]
    assert "unpacked for this run into" in capsys.readouterr().out
    assert brightness(open_source(pattern)) == [7]
    (tmp_path / f"cut{name}").write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(UserError, match=rf"cut{name}"):
        open_source(str(tmp_path / f"cut{name}"))


def test_the_copy_of_a_compressed_archive_goes_with_the_process(tmp_path):
    import subprocess
    import sys

    write_tar(tmp_path / "set.tar.gz", [(f"a/{i}.png", as_png(i)) for i in range(3)], "w:gz")
    (tmp_path / "tmp").mkdir()
    code = "from r2mae_vision.data.sources import open_source; s = open_source('set.tar.gz'); s.read(0, 3); "
    code += "import os; print(os.listdir('tmp'))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**__import__("os").environ, "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert "r2mae-vision-" in ended.stdout
    assert not any((tmp_path / "tmp").iterdir())


def test_what_is_wrong_with_a_shard_is_said(tmp_path, capsys):
    pattern = write_shards(tmp_path / "shards")
    shard = tmp_path / "shards" / "s-001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"s-001.tar"):
        open_source(pattern)
    write_tar(shard, [("a.png", as_png(1)), ("a.cls", b"cat")])
    with pytest.raises(UserError, match=r"a.cls in .*s-001.tar holds b'cat', not the number of a class"):
        open_source(pattern)
    write_tar(shard, [("a.png", as_png(1)), ("b.txt", b"cat"), ("c.mask.png", as_png(2)), ("c.jpg", as_png(3))])
    source = open_source(pattern)
    assert [source.file_name(i) for i in range(6, 8)] == ["a.png", "c.jpg"]
    assert source.labels[6:].tolist() == [-1, -1]
    assert "1 samples without an image" in capsys.readouterr().out
    shard.unlink()
    with pytest.raises(UserError, match=r"s-001.tar, one of the shards .* is not there"):
        open_source(pattern)
    with pytest.raises(SystemExit):
        main(["pretrain", "wds/none-*.tar"])
    assert "no shard matches none-*.tar" in capsys.readouterr().err
    assert not Path("runs").exists()
