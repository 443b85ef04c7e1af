"""Run every benchmark that this machine can run, and write the results into RESULTS.md.

    ./dev -s evidence                       # on the CPU: about half an hour on two cores
    ./dev -s evidence -- --device cuda
    ./dev -s evidence -- --only text dna    # only these packages; the rest of RESULTS.md is kept

RESULTS.md has one part for each device and package, between two comments; text outside of them is written by hand.
A script that fails is shown with its last lines, and the exit code is 1.
"""

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from r2mae_core import device_name, git_commit, resolve_device, write_text

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
PACKAGES = {
    "core": ("torch", "numpy"),
    "theory": ("numpy", "scipy"),
    "vision": ("torch", "torchvision", "timm", "transformers"),
    "text": ("torch", "transformers"),
    "dna": ("torch", "zarr", "biopython", "gpn"),
    "singlecell": ("torch", "scvi-tools", "anndata"),
    "paper": ("torch", "timm", "transformers", "scvi-tools"),
}
CPU = {
    "core_masks": "",
    "theory_speed": "",
    "vision_mnist_epoch": "",
    "vision_mae": "--rounds 5",
    "vision_celeba": "",
    "vision_per_sample": "--rounds 3 --batch 8 --steps 4",
    "vision_loading": "",
    "text_speed": "--rounds 3 --finetune-size tiny",
    "text_per_sample": "",
    "dna_data": "",
    "dna_build": "",
    "dna_scan": "--hidden 192 --layers 2",
    "dna_network": "",
    "dna_per_sample": "",
    "singlecell_step": "--rounds 9",
    "singlecell_per_sample": "",
    "singlecell_loading": "--memory",
    "singlecell_out_of_core": "--cells 400000 --turns 3",
    "singlecell_prepare": "--cells 100000",
    "paper_cost": "",
}
CUDA = {
    "core_masks": "",
    "vision_mnist_epoch": "--models 48",
    "vision_mae": "--model vit_base_patch16_224 --decoder 512 8 16 --batch 256 --compile",
    "vision_celeba": "--images 8192 --batch 256 --channels 32 --precision bf16 --workers 8",
    "text_speed": "--size medium --rows 512 --compile",
    "dna_network": "--sizes base --batch 512 --rounds 20",
    "dna_per_sample": "--sizes base --batch 512 --bf16",
    "vision_per_sample": "",
    "text_per_sample": "",
    "singlecell_step": "",
    "singlecell_per_sample": "",
    "singlecell_loading": "",
    "paper_cost": "--compile",
}
WITHOUT_DEVICE = ("theory_speed", "vision_loading", "dna_data", "dna_build", "dna_scan", "singlecell_prepare")
"""Scripts that do not use a GPU and have no option `--device`."""


def machine(device):
    """Return the device's name; for a CPU also cores, instruction set and memory."""
    if device == "cuda":
        return device_name(device)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists() and (names := re.findall(r"model name\s*: (.*)", info.read_text())):
        model = names[0]
    return f"{os.cpu_count()} cores of {model} ({torch.backends.cpu.get_cpu_capability()}), {memory:.0f} GiB"


def run_script(name, words, device):
    """Run one script and return its exit code, its output, and a line with its duration and the machine's load."""
    command = [sys.executable, str(HERE / f"{name}.py"), *words]
    command += [] if name in WITHOUT_DEVICE else ["--device", device]
    # Two libraries with a thread pool each would disturb each other: one thread on a CPU, unless the caller sets more.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if device == "cpu" else {}
    start, before = time.perf_counter(), os.getloadavg()[0]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    took = f"{time.perf_counter() - start:.0f} s; load before {before:.1f}"
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr[-2000:], took


def shown(name, words):
    """Return the command as a reader would type it."""
    package = name.partition("_")[0]
    if package == "paper":  # needs every package
        return "nox -s evidence -- --only paper"
    return f'nox -s "bench({package})" -- {" ".join([name, *words])}'


def part(package, scripts, device):
    """Run a package's scripts and return its part of RESULTS.md, and whether all of them ran."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES[package])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        "### The paper's runs" if package == "paper" else f"### r2mae-{package}",
        "",
        f"{today}, on {machine(device)}, Python {platform.python_version()}, {versions}, commit "
        f"{git_commit() or 'unknown'}.",
    ]
    good = True
    for name, words in scripts.items():
        print(f"{name} {' '.join(words)}", flush=True)
        code, output, took = run_script(name, words, device)
        print(f"  {'failed: ' + output[-400:] if code else took}", flush=True)
        good &= code == 0
        body = output.strip() if code == 0 else f"FAILED with exit code {code}:\n\n```\n{output.strip()[-1500:]}\n```"
        lines += ["", f"`{shown(name, words)}` ({took})", "", body]
    return "\n".join(lines), good


def summary(text):
    """Return all rows that have a target: what was timed, the ratio, the spread over turns, the verdict."""
    rows, package, title = [], "", ""
    for line in text.splitlines():
        if line.startswith("### "):
            package = line.removeprefix("### r2mae-")
        elif line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[-1].endswith(("met", "missed")):
                ratio, spread = (cells[2], cells[3]) if not cells[3].endswith("×") else (cells[3], "")
                rows.append(f"| {package} | {title}, against: {cells[0]} | {ratio} | {spread} | {cells[-1]} |")
        elif found := re.match(r"(?P<what>.*): (?P<ratio>[\d.,]+×) \(target: (?P<verdict>.*)\)$", line):
            rows.append(f"| {package} | {found['what']} | {found['ratio']} | | {found['verdict']} |")
        elif line and not line.startswith(("|", "`", "#")):
            title = line.rstrip(".")
    head = ["| package | what | ours is faster by | turns | target |", "|---|---|---|---|---|"]
    return "\n".join(head + rows)


def places(parts):
    """Return on which machine each part was measured: `--only` keeps the others, which may be of another machine."""
    found = {}
    for part in parts:
        package = re.search(r"^### (?:r2mae-)?(.*)$", part, re.MULTILINE)[1]
        where = re.search(r"^\d{4}-\d\d-\d\d, on (.*?), Python ", part, re.MULTILINE)[1]
        found.setdefault(where, []).append(package)
    return "; ".join(f"{where}: {', '.join(packages)}" for where, packages in found.items()) + "."


def marks(name):
    """Return the comments around a part."""
    return f"<!-- run.py: {name} -->", f"<!-- end: {name} -->"


def replaced(text, name, body):
    """Return RESULTS.md with a part replaced; a part that is new goes to the end."""
    begin, end = marks(name)
    block = f"{begin}\n\n{body}\n\n{end}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", nargs="+", choices=list(PACKAGES), default=list(PACKAGES), help="packages")
    parser.add_argument("--quick", action="store_true", help="only core and theory, printed and not written: a trial")
    given = parser.parse_args()
    device = resolve_device(given.device)
    scripts = {name: words.split() for name, words in (CPU if device == "cpu" else CUDA).items()}
    packages, good = ["core", "theory"] if given.quick else given.only, True
    text = RESULTS.read_text(encoding="utf-8")
    for package in packages:
        own = {name: words for name, words in scripts.items() if name.startswith(f"{package}_")}
        if not own:
            continue
        body, ran = part(package, own, device)
        good &= ran
        text = replaced(text, f"{device} {package}", body)
        if not given.quick:
            write_text(RESULTS, text)
    found = [
        re.search(f"{marks(f'{device} {p}')[0]}(.*?){marks(f'{device} {p}')[1]}", text, re.DOTALL) for p in PACKAGES
    ]
    parts = [match[1] for match in found if match]
    table = f"{places(parts)}\n\n{summary(chr(10).join(parts))}"
    print(f"\n{table}")
    if not given.quick:
        write_text(RESULTS, replaced(text, f"{device} summary", table))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
