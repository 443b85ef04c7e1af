"""What a terminal sees when something goes wrong: a line, never a traceback."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from r2mae_core import Bound, Command, Count, PretrainOptions, Share, UserError, Workers, check_bounds, run


@dataclass(frozen=True)
class Options:
    """Options."""

    n: Count = 3
    """How many."""
    workers: Workers = 0
    """Processes."""
    share: Share | None = None
    """A part."""
    ratios: tuple[Annotated[float, Bound(0, 1, above=True)], ...] = (0.5,)
    """Ratios."""
    plain: float = 1.0
    """Any number."""
    seed: int = 0
    """Any whole number."""
    what: str = "nothing"
    """What goes wrong."""


def work(options):
    if options.what == "fault":
        raise KeyError("unforeseen\nand long")
    if options.what == "memory":
        raise MemoryError
    if options.what == "torch":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8e12 bytes")
    if options.what == "library":
        raise RuntimeError("IoError(Os { code: 28, kind: StorageFull })")


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setitem(sys.modules, "r2mae_core.fake", sys.modules[__name__])
    return lambda *argv: run("prog", "D.", {"work": Command(Options, "r2mae_core.fake:work", "Do it.")}, argv)


def test_an_unforeseen_error_is_called_a_fault_of_ours(call, capsys, tmp_path, monkeypatch):
    assert call("work", "--what", "fault") == 1
    (report,) = tmp_path.glob("r2mae-fault-*.txt")
    err = capsys.readouterr().err
    assert err.startswith("prog work: a fault in prog, not in what you did: KeyError: 'unforeseen")
    assert str(report) in err
    assert len(err.splitlines()) == 1
    text = report.read_text()
    assert "Traceback" in text
    assert "raise KeyError" in text
    assert "numpy " in text
    monkeypatch.setenv("R2MAE_DEBUG", "1")
    with pytest.raises(KeyError):
        call("work", "--what", "fault")


@pytest.mark.parametrize(
    ("what", "words"),
    [("memory", "the memory is full"), ("torch", "the memory is full"), ("library", "the disk or the quota")],
)
def test_a_full_machine_is_no_fault(call, capsys, tmp_path, what, words):
    assert call("work", "--what", what) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("r2mae-fault-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n", "0"], "--n must be at least 1, got 0"),
        (["--n", "-3"], "--n must be at least 1, got -3"),
        (["--workers", "100000000000000000000"], "--workers must be at least 0 and at most 1024"),
        (["--workers", "-1"], "--workers must be"),
        (["--share", "1.5"], "--share must be at least 0 and at most 1, got 1.5"),
        (["--share", ".nan"], "--share must be a finite number, got nan"),
        (["--ratios", "[0.5,0]"], "--ratios must be above 0"),
        (["--ratios", "[.inf]"], "--ratios must be a finite number"),
        (["--plain", ".nan"], "--plain must be a finite number"),
        (["--plain=-.inf"], "--plain must be a finite number"),
        (["--seed", "9" * 40], "--seed is too large"),
    ],
)
def test_options_out_of_their_bounds_are_refused(call, capsys, words, message):
    assert call("work", *words) in (1, 2)
    assert message in capsys.readouterr().err


def test_bounds_hold_in_python_too():
    with pytest.raises(UserError, match="--batch_size must be at least 1, got 0"):
        PretrainOptions(batch_size=0)
    with pytest.raises(UserError, match="--log_every must be at least 1"):
        PretrainOptions(log_every=-1)
    check_bounds(Options(share=None, ratios=()))
    for name in ("n", "plain", "what"):
        with pytest.raises(UserError, match=f"--{name} needs a value, got null"):
            check_bounds(Options(**{name: None}))


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"[1, 2]", b"n: [", b"a: b: c", b"7", b"!!python/object:os.system x"]
)
def test_a_config_file_that_is_none(call, capsys, tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    assert call("work", "-c", "c.yaml") == 2
    err = capsys.readouterr().err
    assert "c.yaml" in err
    assert "Traceback" not in err


SLEEP = """
import signal, sys, time
from dataclasses import dataclass
from r2mae_core import Command, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without it
@dataclass(frozen=True)
class Options:
    x: int = 0
def work(options):
    print("working", flush=True)
    time.sleep(60)
sys.modules["r2mae_core.fake"] = sys.modules["__main__"]
sys.exit(run("prog", "D.", {"work": Command(Options, "r2mae_core.fake:work", "Do it.")}, ["work"]))
"""


SLOW_IMPORT = """
import time
print("working", flush=True)
for _ in range(100):
    try:
        time.sleep(0.5)
    except KeyboardInterrupt:
        pass  # as numpy and torch do
"""
ANOTHER_ERROR = SLEEP.replace(
    "    time.sleep(60)",
    "    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        raise AttributeError('x')",
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("swallowed", ["while importing", "as another error"])
def test_an_interrupt_that_a_library_swallows_is_answered(tmp_path, number, swallowed):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "__init__.py").touch()
    (tmp_path / "slow" / "work.py").write_text(SLOW_IMPORT)
    importing = SLEEP.replace("r2mae_core.fake:work", "slow.work:work").replace("import signal", "import slow, signal")
    code = importing if swallowed == "while importing" else ANOTHER_ERROR
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "prog work: interrupted\n")
    assert not list(tmp_path.glob("r2mae-fault-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_is_answered_like_ctrl_c(number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", SLEEP], **pipes)
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, "prog work: interrupted\n")
    assert Path().exists()


def test_ctrl_c_while_a_script_still_imports_is_a_line():
    code = "import r2mae_core.interrupts, sys; sys.argv = ['bin/prog']; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode != 0, done.stderr) == (True, "prog: interrupted\n")
    done = subprocess.run([sys.executable, "-c", code.replace("KeyboardInterrupt", "KeyError")], capture_output=True)
    assert b"Traceback" in done.stderr
