# /// script
# dependencies = ["nox[uv]>=2026.8.10"]
# ///
"""The sessions of the workspace: the same words for people and for CI. `nox -l` lists them.

Every session has an environment of its own with the versions of the lock's date, and keeps it: a second run is fast.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2026.8.10"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
# About half an hour on two cores: on the second Python only the package whose dependencies differ there (it brings the
# core). `nox -s matrix` tests every package on each, `nox -s lowest newest` with other versions of what they need,
# `nox -s long` what takes minutes.
OTHER_PYTHONS = ["3.12", "3.13"]
SECOND = ["matrix(singlecell, version='3.12')"]
nox.options.sessions = ["lint", "types", "tests", "wheels", *SECOND, "pages"]
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # importing lightning takes three times as long with it

ROOT = Path(__file__).parent
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))  # nox[uv] brings its own
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
# The tests of several files at once: they use one thread each, also in the processes that they start.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
IN_PARALLEL = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"]
SHORT_DEMO = {
    "dna": ["--steps=3", "--seeds=[0]"],
    "singlecell": ["--epochs=5", "--seeds=[0]"],
    "text": ["--steps=8", "--labels=64", "--seeds=[0]"],
    "theory": ["--repeats=2"],
    "vision": ["--epochs=2", "--seeds=[0]"],
}
NAMES = {package: package.removeprefix("r2mae-") for package in PACKAGES}
EACH = nox.parametrize("package", [nox.param(package, id=name) for package, name in NAMES.items()])


def with_script(name):
    """Return the parameters for the packages that have a file or folder of this name among their modules."""
    found = [p for p in PACKAGES if (ROOT / "packages" / p / "src" / p.replace("-", "_") / name).exists()]
    return nox.parametrize("package", [nox.param(package, id=NAMES[package]) for package in found])


def sync(session, *arguments):
    """Put exactly the named things and their dependencies into the session's environment."""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--exact",
        "--no-default-groups",
        f"--python={session.virtualenv.location}",
        *arguments,
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
        external=True,
    )


def needs_of_core(package):
    """Return the extra of the core that the package's dependencies name."""
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    return next(line for line in project["dependencies"] if line.startswith("r2mae-core[")).split("[")[1].split("]")[0]


def extras(package, version="3.11"):
    """Return what a package's own tests need beyond what it needs.

    Of the core, all that the modalities take of it; of single cells annbatch, which there is from Python 3.12 on.
    """
    if package == "r2mae-core":
        return ["--extra=train"]
    recent = tuple(map(int, version.split("."))) >= (3, 12)
    return ["--extra=annbatch"] if package == "r2mae-singlecell" and recent else []


def check_alone(session, package):
    """Fail if a package that this one must not see can be imported."""
    forbidden = [name.replace("-", "_") for name in PACKAGES if name not in (package, "r2mae-core")]
    forbidden += ["torch", "lightning"] if package == "r2mae-theory" else []
    script = (
        "import importlib.util, sys; seen = [m for m in sys.argv[1:] if importlib.util.find_spec(m)]; "
        "sys.exit(f'must not be importable here: {seen}' if seen else 0)"
    )
    session.run("python", "-c", script, *forbidden)


def run_tests(session, package):
    sync(session, f"--package={package}", *extras(package), "--group=test")
    check_alone(session, package)
    where = ("python", "-m", "pytest", f"packages/{package}/tests")
    session.run(*where, "-m", "not long", *IN_PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session
@EACH
def tests(session, package):
    """Test one package in an environment that holds only it and its dependencies."""
    run_tests(session, package)


@nox.session
@EACH
def long(session, package):
    """Run a package's tests that take minutes; they are not among the others."""
    sync(session, f"--package={package}", "--all-extras", "--group=test")
    # 5: there are none
    session.run("python", "-m", "pytest", f"packages/{package}/tests", "-m", "long", success_codes=[0, 5])


def build_wheels(session, package):
    """Build the wheels that a user of the package installs; return their names and files."""
    wanted = list(dict.fromkeys(["r2mae-core", package]))
    out = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(out, ignore_errors=True)  # or an earlier version would be there still
    for name in wanted:
        session.run_install("uv", "build", "--quiet", "--wheel", f"--package={name}", f"--out-dir={out}", external=True)
    files = [next(out.glob(f"{name.replace('-', '_')}-*.whl")) for name in wanted]
    for file in files:
        with zipfile.ZipFile(file) as wheel:
            if not any(name.endswith("/py.typed") for name in wheel.namelist()):
                session.error(f"{file.name} has no py.typed")
    return wanted, [str(file) for file in files]


def try_installed(session, package):
    """Import an installed package and ask for its help, away from the sources."""
    check_alone(session, package)
    with session.chdir(session.create_tmp()):
        session.run("python", "-c", f"import {package.replace('-', '_')} as m; print(m.__name__, m.__version__)")
        if (Path(session.bin) / package).exists():
            session.run(package, "--help", silent=True)
        if package == "r2mae-core":  # no extra: numpy alone
            session.run("python", str(ROOT / "packages" / package / "tests" / "bare.py"), "installed")


@nox.session(reuse_venv=False)  # or what an earlier wheel needed would be there still
@EACH
def wheels(session, package):
    """Build the package, install it from the built files alone, and run its --help."""
    wanted, files = build_wheels(session, package)
    constraints = Path(session.create_tmp()) / "constraints.txt"
    session.run_install(
        "uv",
        "export",
        "--quiet",
        f"--package={package}",
        "--no-emit-workspace",
        "--no-hashes",
        "--no-default-groups",
        f"--output-file={constraints}",
        external=True,
        silent=True,
    )
    reinstall = [f"--reinstall-package={name}" for name in wanted]  # a version that was built before counts as met
    session.run_install("uv", "pip", "install", "--quiet", *reinstall, "-c", str(constraints), *files, external=True)
    try_installed(session, package)


@nox.session
def build(session):
    """Build what is published into dist/, and check it: metadata, README, licences, nothing that git does not track.

    `-- --repository https://github.com/OWNER/NAME` is where the pages lead; `--tag v0.3.0` must be the version.
    """
    sync(session, "--only-group=release")
    options = [word for word in session.posargs if word != "--no-demo"]
    session.run("python", "tools/release.py", "build", *options)
    session.run("twine", "check", "--strict", *map(str, sorted((ROOT / "dist").glob("r2mae_*"))))


@nox.session(reuse_venv=False, requires=["build"])
@EACH
def release(session, package):
    """Build all, then install each package from dist/ alone, with the newest versions that it allows; run its demo.

    The demos are short. `-- --no-demo` leaves them out; other options: see `build`.
    """
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    names = [name.replace("-", "_") for name in dict.fromkeys(["r2mae-core", package])]
    files = [str(ROOT / "dist" / f"{name}-{project['version']}-py3-none-any.whl") for name in names]
    files[-1] += "[demo]" if "demo" in project.get("optional-dependencies", {}) else ""
    # Without the workspace's settings, as for a user: no date, no sources.
    session.run_install("uv", "pip", "install", "--quiet", "--no-config", "--refresh", *files, external=True)
    session.run("uv", "pip", "check", external=True)
    try_installed(session, package)
    if "scripts" in project and "--no-demo" not in session.posargs:
        with session.chdir(session.create_tmp()):
            session.run(package, "demo", *SHORT_DEMO.get(NAMES[package], []))


@nox.session
def version(session):
    """Set the version of all packages, and which cores they take: `-- 0.3.0`."""
    sync(session, "--only-group=release")
    session.run("python", "tools/release.py", "version", *session.posargs)


@nox.session
def lint(session):
    """Format, lint, import contracts, spelling."""
    sync(session, "--only-group=lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    sources = os.pathsep.join(str(path) for path in ROOT.glob("packages/*/src"))
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": sources}, silent=True)
    pages = [str(path) for path in ROOT.glob("*.md")]
    session.run("codespell", "packages", "docs", "benchmarks", "studies", "examples", "tools", *pages)


@nox.session(venv_backend="none")
def hooks(session):
    """Run lint once and install its ruff as a git hook."""
    session.run(sys.executable, "-m", "nox", "-s", "lint", external=True)
    session.run(str(ROOT / ".nox" / "lint" / "bin" / "prek"), "install", external=True)


@nox.session
def types(session):
    """Check the types of every package."""
    sync(session, "--all-packages", "--all-extras", "--group=types")
    python = f"--pythonpath={session.virtualenv.location}/bin/python"
    command = ["basedpyright", python, "--level=error", "--stats", "--threads"]
    report = session.run(*command, silent=True)
    if report is None:  # --install-only
        return
    session.log(next(line for line in report.splitlines() if " errors, " in line))
    if "No source files found" in report:  # which it calls a success
        session.error("nothing was checked")


@nox.session
def mutants(session):
    """Break the code in the ways that `tools/mutants.jsonl` lists, one at a time; the tests must notice each.

    Takes about an hour on two cores. `-- core dna` tries those packages alone, `-- --sample 10` ten of them.
    """
    sync(session, "--all-packages", "--all-extras", "--group=test")
    session.run("python", "tools/mutants.py", *session.posargs, env=ONE_THREAD)


@nox.session
def fuzz(session):
    """Try 500 mutated commands: no traceback, no hang, no foreign code, no changed input. `-- --seed 3 --only text`"""
    sync(session, "--all-packages", "--all-extras", "--group=test")
    session.run("python", "-m", "tools.fuzz", *session.posargs, env=ONE_THREAD)


@nox.session
def reliability(session):
    """Kill, move, fill, damage: every command must end as if nothing had happened. Writes docs/reliability.md.

    Takes tens of minutes on two cores. `-- --only text --part kills` tries some of it.
    """
    sync(session, "--all-packages", "--all-extras", "--group=test")
    session.run("python", "-m", "tools.reliability", *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none")
def new(session):
    """Write the package of a new modality, with its tests: `-- NAME`."""
    session.run(sys.executable, "tools/new_modality.py", *session.posargs, external=True)


@nox.session
def docs(session):
    """Build the documentation; every warning is an error."""
    sync(session, "--all-packages", "--group=docs")
    session.run("sphinx-build", "-W", "-q", "-b", "html", "docs", "docs/_build/html")
    session.log("open docs/_build/html/index.html")


@nox.session
def browser(session):
    """Look at every page of the documentation in Chromium, wide and narrow. `-- --shots DIR` keeps pictures of them."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.error("no Chromium on PATH; on Debian: apt-get install chromium")
    words = list(session.posargs)
    shots = {}
    if "--shots" in words:
        place = words.index("--shots")
        shots = {"R2MAE_SHOTS": str(Path(words[place + 1]).absolute())}
        Path(shots["R2MAE_SHOTS"]).mkdir(parents=True, exist_ok=True)
        del words[place : place + 2]
    sync(session, "--all-packages", "--group=docs", "--group=browser")
    site = Path(session.create_tmp()) / "site"
    session.run("sphinx-build", "-W", "-q", "-b", "html", "docs", str(site))
    session.run("python", "-m", "pytest", "docs/browser", *words, env={"R2MAE_SITE": str(site), **shots})


@nox.session
@EACH
def notebooks(session, package):
    """Run the package's notebook from scratch, where only the package is; its claims must hold. `-- --write` keeps it.

    Each takes from half a minute to some minutes on two cores.
    """
    if not (ROOT / "docs" / "notebooks" / f"{NAMES[package]}.ipynb").exists():
        session.skip(f"no notebook of {package}")
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    own = {"demo"} if package != "r2mae-core" else {"train"}
    extra = [f"--extra={name}" for name in own & set(project.get("optional-dependencies", {}))]
    sync(session, f"--package={package}", *extra)
    check_alone(session, package)
    session.run_install("uv", "pip", "install", "--quiet", "--group=pyproject.toml:notebooks", external=True)
    session.run("python", "tools/notebooks.py", NAMES[package], *session.posargs)


@nox.session
def pages(session):
    """Run the code and check the commands in the documentation's pages; hold the packages against each other."""
    sync(session, "--all-packages", "--all-extras", "--group=test", "--group=pages")
    session.run("python", "-m", "pytest", "docs", "examples", *IN_PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session
@with_script("demo.py")
def demo(session, package):
    """Run the package's main job on small real data."""
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    extra = ["--extra=demo"] if "demo" in project.get("optional-dependencies", {}) else []
    sync(session, f"--package={package}", *extra)
    session.run(package, "demo", *session.posargs)


@nox.session
@EACH
def bench(session, package):
    """Run the package's benchmarks, ours against a peer. `-- SCRIPT …` runs one of them, with its options."""
    scripts = sorted((ROOT / "benchmarks").glob(f"{NAMES[package]}_*.py"))
    if not scripts:
        session.skip(f"no benchmarks of {package}")
    sync(session, f"--package={package}", "--group=test")
    words = session.posargs
    if words and (one := [script for script in scripts if script.stem == words[0]]):
        scripts, words = one, words[1:]
    for script in scripts:
        session.run("python", str(script), *words)


def run_with_everything(session, *command):
    """Run a script of the repository where every package and every peer is installed."""
    sync(session, "--all-packages", "--all-extras", "--group=test")
    session.run("python", *command, *session.posargs)


@nox.session
def evidence(session):
    """Run every benchmark that this machine can run, and write benchmarks/RESULTS.md. `-- --device cuda`"""
    run_with_everything(session, "benchmarks/run.py")


@nox.session
def figures(session):
    """Draw the documentation's figures anew, by the commands that the pages name."""
    run_with_everything(session, "docs/figures.py")


@nox.session
def study(session):
    """Set the theory's advice beside trained models, for docs/advice.md. `-- measure pbmc`, `-- report`"""
    run_with_everything(session, "-m", "studies.advice")


@nox.session
def schemes(session):
    """Set R2MAE beside fixed ratios, for docs/evidence.md, from kept results. `-- report`, `-- add NAME RUN`"""
    run_with_everything(session, "-m", "studies.evidence")


def find_python(version):
    """Return a working interpreter of this version, also one of pyenv's that is not selected, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return str(candidate)
    return None


@nox.session(venv_backend="none")
@nox.parametrize("version", OTHER_PYTHONS)
@EACH
def matrix(session, package, version):
    """Test a package on another Python, where the machine has it."""
    python = find_python(version)
    if python is None:
        session.skip(f"no Python {version} on this machine")
    home = ROOT / ".nox" / f"matrix-{version}-{NAMES[package]}"
    session.run_install(
        *(UV, "sync", "--quiet", "--exact", "--no-default-groups", f"--package={package}", *extras(package, version)),
        "--group=test",
        f"--python={python}",
        env={"UV_PROJECT_ENVIRONMENT": str(home), "VIRTUAL_ENV": ""},
        external=True,
    )
    python = str(home / "bin" / "python")
    where = (python, "-m", "pytest", f"packages/{package}/tests")
    session.run(*where, "-m", "not long", *IN_PARALLEL, *session.posargs, env=ONE_THREAD)


def run_tests_at(session, package, version, *how):
    """Test a package with the versions that uv chooses in this way, instead of those of the lock's date."""
    core = [] if package == "r2mae-core" else [f"--editable=packages/r2mae-core[{needs_of_core(package)}]"]
    chosen = ",".join(word.removeprefix("--extra=") for word in extras(package, version))
    own = f"--editable=packages/{package}" + (f"[{chosen}]" if chosen else "")
    group = f"--group=packages/{package}/pyproject.toml:test"
    session.run_install("uv", "pip", "install", "--quiet", *how, *core, own, group, external=True)
    session.run("uv", "pip", "freeze", "--exclude-editable", external=True)
    # What old and new libraries say of each other is no fault of ours; at the lock's date such warnings are errors.
    where = ("python", "-m", "pytest", f"packages/{package}/tests", "-W", "ignore::DeprecationWarning")
    session.run(*where, "-m", "not long", *IN_PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session(reuse_venv=False, python=find_python("3.11") or "3.11")
@EACH
def lowest(session, package):
    """Test a package with the lowest versions that its pyproject.toml allows, on the oldest Python."""
    run_tests_at(session, package, "3.11", "--resolution=lowest-direct")


@nox.session(reuse_venv=False, python=find_python(OTHER_PYTHONS[-1]) or OTHER_PYTHONS[-1])
@EACH
def newest(session, package):
    """Test a package with the newest versions there are today, on the newest Python."""
    run_tests_at(session, package, OTHER_PYTHONS[-1], "--no-config", "--refresh")


if __name__ == "__main__":
    sys.exit(nox.main())
