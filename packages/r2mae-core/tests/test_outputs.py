"""Where commands write: never over what they read, one at a time, with space that is there, and from known sources."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from r2mae_core import (
    BusyError,
    RunFolder,
    UserError,
    atomic_path,
    check_output,
    check_space,
    fingerprint,
    in_processes,
    one_writer,
    open_run,
    refuse_changed,
    reserve,
    saying_disk_full,
    whole_folder,
)


def test_an_output_is_never_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (source := tmp_path / "a.h5ad").write_text("counts")
    (tmp_path / "soft").symlink_to(source)
    os.link(source, tmp_path / "hard")
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    for out in (source, Path("a.h5ad"), Path("data/../a.h5ad"), Path("soft"), Path("hard")):
        with pytest.raises(UserError, match="is an input of this command"):
            check_output(out, [None, "not there", source], overwrite=True)
    for out in (Path("data"), Path("folder"), tmp_path / "x" / ".." / "data"):
        with pytest.raises(UserError, match="is an input of this command"):
            check_output(out, [tmp_path / "data"])
    for out in (Path("data/store"), Path("folder/store")):
        with pytest.raises(UserError, match="lies inside the input"):
            check_output(out, [tmp_path / "data"])
    with pytest.raises(UserError, match="is a folder that holds the input"):
        check_output(tmp_path, [source], overwrite=False)
    with pytest.raises(UserError, match="is a folder; name a file"):
        check_output(Path("data"), [source], overwrite=True)
    (tmp_path / "old").touch()
    with pytest.raises(UserError, match="old is there already; give --overwrite"):
        check_output(Path("old"), [source], overwrite=False)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop is there already"):
        check_output(Path("loop"), [source, Path("loop")], overwrite=False)
    check_output(Path("old"), [source], overwrite=True)
    check_output(Path("new"), [source, tmp_path / "data"], overwrite=False)


HOLD = """
import sys, time
from pathlib import Path
from r2mae_core import one_writer
with one_writer(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another(folder):
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        yield process.pid
        process.kill()


def test_a_folder_has_one_writer(tmp_path):
    with held_by_another(tmp_path / "run") as pid:
        message = rf"run is being written by process {pid} on .* since "
        with pytest.raises(BusyError, match=message), one_writer(tmp_path / "run"):
            pass
        with pytest.raises(BusyError), open_run("prog", "fit", tmp_path / "run", {}):
            pass
    with one_writer(tmp_path / "run"), one_writer(tmp_path / "run"):  # its own parts may lock it again
        assert (tmp_path / "run" / ".lock").exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_other_ranks_of_a_run_are_no_strangers(tmp_path, monkeypatch):
    with held_by_another(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")
        with one_writer(tmp_path / "run"):
            pass


def test_a_file_has_one_writer_too(tmp_path):
    with one_writer(tmp_path / "out.csv", folder=False):
        assert json.loads((tmp_path / ".out.csv.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_command_left_is_removed(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with atomic_path(tmp_path / "a.bin") as temporary:
        name = temporary.name
        temporary.write_bytes(b"whole")
    dead = name.replace(f"-{os.getpid()}-", f"-{int(gone.stdout)}-")
    alive, elsewhere = name.replace("x", "y") + "0", dead.replace(f"-{int(gone.stdout)}-", "-elsewhere-1-")
    for left in (dead, alive):
        (tmp_path / left).touch()
    (tmp_path / dead.replace("-a-", "-b-")).mkdir()
    (tmp_path / ".partial-a-otherhost-1-xyz.bin").touch()
    with one_writer(tmp_path):
        pass
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"a.bin", alive, ".partial-a-otherhost-1-xyz.bin"}, elsewhere


def test_space_is_reserved_or_named(tmp_path, monkeypatch):
    reserve(tmp_path / "a.bin", 1000)
    assert (tmp_path / "a.bin").stat().st_size == 1000

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=8_000_000))
    with pytest.raises(UserError, match=r"b\.bin needs 2 GB in .*, where 8 MB are free"):
        reserve(tmp_path / "b.bin", 2_000_000_000)
    assert not (tmp_path / "b.bin").exists()
    with pytest.raises(UserError, match=r"the store needs 9 MB in .*new/er, where 8 MB are free"):
        check_space(tmp_path / "new" / "er", 9e6, "the store")
    check_space(tmp_path, 7e6, "the store")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: ... })"),
        OSError(
            "Can't write data (file write failed: time = now, errno = 28, error message = 'No space left on device')"
        ),
    ],
    ids=str,
)
def test_a_full_disk_is_one_message_whoever_reports_it(tmp_path, error):
    (tmp_path / "old.h5").write_text("old")
    message = r"cannot write .*old\.h5: the disk or the quota is full"
    with pytest.raises(UserError, match=message), atomic_path(tmp_path / "old.h5"):
        raise error
    assert (tmp_path / "old.h5").read_text() == "old"
    with pytest.raises(UserError, match="the disk or the quota is full"), whole_folder(tmp_path / "model"):
        raise error
    assert [file.name for file in tmp_path.iterdir()] == ["old.h5"]
    with pytest.raises(ValueError, match="another"), saying_disk_full(tmp_path / "x"):
        raise ValueError("another")


def test_a_folder_is_replaced_and_lost_at_no_moment(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with whole_folder(tmp_path / "model") as folder:
        (folder / "new").touch()
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["new"]
    (tmp_path / "model").rename(tmp_path / ".previous-model")  # killed just before the second rename
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model"):
        raise RuntimeError("half way")
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["model", "model/new"]


def test_sources_are_known_by_names_sizes_and_times(tmp_path):
    data = tmp_path / "data"
    (data / "cats").mkdir(parents=True)
    (data / "b.txt").write_text("bb")
    (data / "cats" / "1.png").write_text("x")
    before = fingerprint(data)
    assert fingerprint(data) == before
    shutil.move(data, tmp_path / "elsewhere")  # as a whole: the times stay
    shutil.move(tmp_path / "elsewhere", data)
    refuse_changed(tmp_path / "store", before, fingerprint(data), "name another --out")

    def changed(pattern):
        with pytest.raises(UserError, match=pattern):
            refuse_changed(tmp_path / "store", before, fingerprint(data), "name another --out")

    (data / "a.txt").write_text("first")
    changed(r"data/a\.txt is new; name another --out")
    (data / "a.txt").unlink()
    (data / "b.txt").write_text("cc")
    changed(r"data/b\.txt was changed since")
    (data / "b.txt").write_text("ccc")
    changed(r"data/b\.txt was 2 bytes and is 3 bytes")
    (data / "b.txt").unlink()
    changed(r"data/b\.txt is gone")
    (data / "dogs").mkdir()
    changed(r"data/dogs/ is new")
    (data / "cats" / "2.png").write_text("x")
    changed(r"data/cats/ was 1 bytes and is 2 files, 2 bytes")


def test_the_place_of_sources_does_not_count(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    files = [tmp_path / "two" / "a.txt", tmp_path / "one" / "a.txt"]
    before = fingerprint(files)
    assert fingerprint(files[::-1]) == before  # of equal names, too
    assert len(before) == 2
    monkeypatch.chdir(tmp_path / "one")
    assert fingerprint(Path("a.txt")) == fingerprint(tmp_path / "one" / "a.txt")
    alone = fingerprint(files[0])
    (tmp_path / "two").rename(tmp_path / "three")
    assert fingerprint(tmp_path / "three" / "a.txt") == alone


def test_a_run_is_resumed_on_the_same_sources_only(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    RunFolder(tmp_path / "run", {"lr": 1}, sources=fingerprint(tmp_path / "a.txt")).write_results([])
    RunFolder(tmp_path / "run", {"lr": 1}, sources=fingerprint(tmp_path / "a.txt"))
    assert RunFolder.open(tmp_path / "run").facts == {}
    (tmp_path / "a.txt").write_text("other")
    with pytest.raises(UserError, match=r"run was made from other data: a\.txt was 1 bytes and is 5 bytes"):
        RunFolder(tmp_path / "run", {"lr": 1}, sources=fingerprint(tmp_path / "a.txt"))


def test_a_failed_start_leaves_nothing(tmp_path):
    with pytest.raises(UserError), open_run("prog", "fit", tmp_path / "new" / "run", {"lr": 1}, facts={"a": 1}):
        raise UserError("a wrong option")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".hidden").touch()
    with pytest.raises(UserError), open_run("prog", "fit", tmp_path / "run", {"lr": 1}) as run:
        fail_late(run)
    assert (tmp_path / "run" / "config.yaml").exists()


def fail_late(run):
    (run.path / "metrics.csv").write_text("something")
    raise UserError("later")


def test_a_start_that_was_killed_gives_way_to_another(tmp_path):
    RunFolder(tmp_path / "run", {"lr": 1}, facts={"a": 1})
    (tmp_path / "run" / "checkpoints").mkdir()
    assert RunFolder(tmp_path / "run", {"lr": 2}).config == {"lr": 2}
    assert RunFolder.open(tmp_path / "run").config == {"lr": 2}
    RunFolder(tmp_path / "run", {"lr": 2}, sources={"a": "1 bytes, x"})
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match="lr is 2 there and 3 here"):
        RunFolder(tmp_path / "run", {"lr": 3})


def slowly(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_processes_end_with_their_caller():
    results = in_processes(slowly, [0, 60, 60, 60], 2)
    item, worker = next(results)
    assert item == 0
    start = time.perf_counter()
    results.close()
    assert time.perf_counter() - start < 5
    assert not alive(worker)


def test_processes_of_a_killed_caller_end_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\nfrom r2mae_core import in_processes\ndef work(i):\n    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\nif __name__ == '__main__':\n    list(in_processes(work, range(4), 2))\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
