"""Ten minutes of one GPU, turned into numbers: is it correct, how fast is it, is it worth it.

    sh benchmarks/gpu/pack.sh                                        # where there is a package index: fills pack/
    python benchmarks/gpu/run.py --minutes 9 --out results           # on the machine with the GPU, from the checkout
    python benchmarks/gpu/run.py --device cpu --tiny --out results   # the same on a CPU, in about two minutes

The machine needs Python 3.12, Linux on x86-64, torch with CUDA and what `installed.txt` names; nothing is fetched. The
parts run in order of worth, each in a process of its own with a limit of time. After each, `results.json` and
`results.md` are written, so a run that is cut off keeps what it has.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

from rows import HEAD, Row, read_rows, shown  # noqa: E402

VERSIONS = ("torch", "lightning", "timm", "transformers", "scvi-tools", "gpn", "numpy")


@dataclass(frozen=True)
class Job:
    """A part on one package: a script of this folder, or one of `benchmarks/` that times a peer."""

    name: str
    package: str
    seconds: float
    """Its share of nine minutes."""
    script: str = ""
    words: str = ""
    tiny: str = ""
    """What `words` are in a tiny run; without, the peer is left out there."""


JOBS = (
    Job("correct", "text", 35),
    Job("correct", "vision", 35),
    Job("correct", "dna", 35),
    Job("correct", "singlecell", 35),
    Job("fast", "text", 60),
    Job("fast", "vision", 60),
    Job("fast", "dna", 45),
    Job("fast", "singlecell", 30),
    Job("worth", "vision", 110),
    Job("worth", "text", 70),
    Job("peer", "text", 40, "text_speed", "--size medium --rows 512 --rounds 3 --finetune-size small"),
    Job("peer", "vision", 40, "vision_mae", "--model vit_base_patch16_224 --decoder 512 8 16 --batch 256 --rounds 3"),
    Job("peer", "dna", 40, "dna_network", "--sizes base --batch 256 --rounds 3"),
    Job("peer", "singlecell", 25, "singlecell_step", "--rounds 5", tiny="--rounds 1"),
)
"""In order of worth."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for results.json, results.md and each part's log"
    )
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true", help="smallest networks, to try the script itself")
    parser.add_argument("--only", nargs="+", help="parts, such as correct, or packages")
    given = parser.parse_args()
    started = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    environment = environment_of(given.out)
    machine = json.loads(asked(MACHINE, environment, given.device))
    if machine["error"]:
        print(machine["error"], file=sys.stderr)
        return 1
    left = [job for job in JOBS if not given.only or {job.name, job.package} & set(given.only)]
    jobs = [job for job in left if not (given.tiny and job.script and not job.tiny)]
    outcomes: list[tuple[Job, list[Row], str]] = []
    for i, job in enumerate(jobs):
        remaining = 60 * given.minutes - (time.monotonic() - started) - 5
        # What earlier parts did not use goes to the later ones.
        limit = min(remaining, job.seconds * remaining / sum(j.seconds for j in jobs[i:]))
        outcomes.append((job, *run_job(job, given, environment, limit)))
        write(given.out, machine, outcomes, time.monotonic() - started)
    failed = [job for job, _, log in outcomes if log.startswith("FAILED")]
    missed = [row for _, rows, _ in outcomes for row in rows if row.met is False and row.part == "correct"]
    print((given.out / "results.md").read_text(encoding="utf-8"))
    return 1 if failed or missed else 0


MACHINE = """
import json, sys, torch
device, error = sys.argv[1], ""
if device == "cuda" and not torch.cuda.is_available():
    error = "torch sees no GPU here; --device cpu --tiny tries the script itself"
name = torch.cuda.get_device_name() if device == "cuda" and not error else "CPU"
print(json.dumps({"device": name, "cuda": torch.version.cuda, "error": error}))
"""


def environment_of(out: Path) -> dict[str, str]:
    """Return the environment of the parts: the checkout's sources, and what the machine lacks of the wheels."""
    site = out / "site"
    for wheel in sorted((HERE / "pack" / "wheels").glob("*.whl")):
        with contextlib.suppress(PackageNotFoundError):
            version(wheel.name.partition("-")[0])
            continue  # the machine has one of its own
        with zipfile.ZipFile(wheel) as file:
            file.extractall(site)
    paths = [*sorted(ROOT.glob("packages/*/src")), HERE, HERE.parent, *([site] if site.exists() else [])]
    given = os.environ.get("PYTHONPATH")
    joined = os.pathsep.join([*map(str, paths), *([given] if given else [])])
    return {
        **os.environ,
        "PYTHONPATH": joined,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(max((os.cpu_count() or 2) // 2, 1)),
    }


def asked(code: str, environment: dict[str, str], *words: str) -> str:
    """Return what a line of Python prints in the environment of the parts."""
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, check=True, capture_output=True, text=True
    ).stdout


def run_job(job: Job, given: argparse.Namespace, environment: dict[str, str], limit: float) -> tuple[list[Row], str]:
    """Run a part and return its rows, and what a reader must know of it: why it is missing, or a peer's table."""
    name = f"{job.name}-{job.package}"
    lines, log = given.out / f"{name}.jsonl", given.out / f"{name}.log"
    lines.unlink(missing_ok=True)
    if limit < 5:
        return [], "left out: the time was over"
    if job.script:
        words = [str(HERE.parent / f"{job.script}.py"), *(job.tiny if given.tiny else job.words).split()]
    else:
        home = given.out / "work" / job.package
        words = [str(HERE / f"{job.name}.py"), job.package, "--home", str(home / job.name), "--lines", str(lines)]
        words += ["--seconds", str(limit - 5)] + (["--tiny"] if given.tiny else [])
    print(f"{name}, at most {limit:.0f} s", flush=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *words, "--device", given.device],
            env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError):  # its workers too
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text(encoding="utf-8", errors="replace")
    rows = read_rows(lines)
    if code is None:
        return rows, f"cut off after {limit:.0f} s" + (f"\n\n{table_of(text)}" if job.script else "")
    last = text.strip().splitlines()[-1] if text.strip() else ""
    if "ModuleNotFoundError: " in last:
        return rows, f"left out: {last.partition(': ')[2]}"
    if code:
        return rows, f"FAILED with exit code {code}: {last[:300]}"
    return rows, table_of(text) if job.script else ""


def table_of(text: str) -> str:
    """Return what a peer's script printed, without warnings."""
    return "\n".join(line for line in text.splitlines() if "Warning" not in line and not line.startswith("  ")).strip()


def write(out: Path, machine: dict[str, str], outcomes: list[tuple[Job, list[Row], str]], seconds: float) -> None:
    """Write results.json and results.md, each at once."""
    rows = [row for _, found, _ in outcomes for row in found]
    said = {f"{job.name}-{job.package}": text for job, _, text in outcomes if text}
    facts = {
        **machine,
        "driver": driver(),
        "versions": versions(out / "site"),
        "commit": commit(),
        "seconds": round(seconds),
    }
    replace_file(
        out / "results.json", json.dumps({**facts, "rows": [asdict(row) for row in rows], "said": said}, indent=1)
    )
    about = f"{facts['device']}, driver {facts['driver']}, CUDA {facts['cuda']}, Python {platform.python_version()}, "
    about += ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    text = [f"{about}, commit {facts['commit']}; {seconds:.0f} s.", "", HEAD, *map(shown, rows)]
    for name, words in said.items():
        text += ["", f"{name}: {words}"]
    replace_file(out / "results.md", "\n".join(text) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a file in one go: here without the packages, which may be what fails."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def driver() -> str:
    """Return the version of the GPU's driver."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    return "none"


def versions(site: Path) -> dict[str, str]:
    """Return the versions of the main packages that are there."""
    if site.exists() and str(site) not in sys.path:
        sys.path.append(str(site))
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """Return the checkout's commit: git's, or what `pack.sh` wrote down."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        words = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    file = HERE / "pack" / "COMMIT"
    return file.read_text().strip() if file.exists() else "unknown"


if __name__ == "__main__":
    sys.exit(main())
