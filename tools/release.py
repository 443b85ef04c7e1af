"""What is published: the packages' wheels and sdists, built from what git tracks, and checked.

`nox -s release` builds, checks, installs and tries them; `nox -s version -- 0.3.0` sets the version everywhere.

    python tools/release.py build --out dist --repository https://github.com/OWNER/NAME
    python tools/release.py version 0.3.0

On the package index a README stands alone. Its links into the repository become addresses there, under the version's
tag; without `--repository` they become their words, pictures are left out, and the project's page is not named.
"""

import argparse
import datetime
import email
import email.message
import hashlib
import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
# [words](target) and ![words](target); words may hold brackets of their own. Those that begin in code are code.
LINK = re.compile(r"(?P<picture>!?)\[(?P<words>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
CODE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$|(?P<tick>`+)(?!`).*?(?<!`)(?P=tick)(?!`)", re.M | re.S)
# What a package holds besides is data, and says whose.
TEXT = {"", ".css", ".j2", ".js", ".md", ".py", ".pyi", ".toml", ".typed", ".yaml"}


def packages(root: Path = ROOT) -> list[Path]:
    """Return the packages' folders, the core's first: the others need it."""
    found = sorted(path.parent for path in root.glob("packages/*/pyproject.toml"))
    return sorted(found, key=lambda folder: folder.name != "r2mae-core")


def project_of(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def one_version(root: Path = ROOT) -> str:
    """Return the version that all packages share, or end the program: a release of two versions is none."""
    found = {folder.name: project_of(folder)["version"] for folder in packages(root)}
    if len(set(found.values())) != 1:
        sys.exit(f"release: the packages' versions differ: {found}; set them by nox -s version -- X.Y.Z")
    return next(iter(found.values()))


def core_range(version: str) -> str:
    """Return which cores a package of this version takes: those of its own minor version, as `>=0.2,<0.3`."""
    major, minor, _ = map(int, version.split("."))
    return f">={major}.{minor},<{major}.{minor + 1}"


def set_version(version: str, root: Path = ROOT, today: datetime.date | None = None) -> list[Path]:
    """Write the version wherever it stands, with what packages ask of the core; return the changed files.

    Those are each package's pyproject.toml and `__init__.py`, the workspace, the template and CITATION.cff.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"release: a version is three numbers such as 0.3.0, got {version!r}")
    today = today or datetime.datetime.now(datetime.UTC).date()
    stated = r'^(version = |__version__ = )"[^"]*"'
    projects = [*(folder / "pyproject.toml" for folder in packages(root)), root / "pyproject.toml"]
    rules = {file: [(stated, rf'\g<1>"{version}"')] for file in projects}
    for folder in packages(root):
        rules[folder / "src" / folder.name.replace("-", "_") / "__init__.py"] = [(stated, rf'\g<1>"{version}"')]
    template = root / "tools" / "template" / "pyproject.toml"  # its own version is taken from the core's
    rules[template] = []
    for file in [*projects, template]:
        rules[file].append((r'"(r2mae-core(?:\[[^\]]*\])?)>=[^"]*"', rf'"\g<1>{core_range(version)}"'))
    rules[root / "CITATION.cff"] = [
        (r"^version: .*", f"version: {version}"), (r"^date-released: .*", f"date-released: {today}"),
    ]  # fmt: skip
    changed = []
    for file, replacements in rules.items():
        before = text = file.read_text(encoding="utf-8")
        for pattern, replacement in replacements:
            text = re.sub(pattern, replacement, text, flags=re.M)
        if text != before:
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def alone(readme: str, where: str, repository: str | None, tag: str) -> str:
    """Return a README as the package index shows it; `where` is its folder in the repository."""
    code = [found.span() for found in CODE.finditer(readme)]

    def absolute(found: re.Match) -> str:
        target = found["target"]
        if re.match(r"[a-z]+:|#", target) or any(start <= found.start() < end for start, end in code):
            return found[0]
        if repository is None:
            return "" if found["picture"] else found["words"]
        kind = "raw" if found["picture"] else "blob"
        path = posixpath.normpath(posixpath.join(where, target))
        return f"{found['picture']}[{found['words']}]({repository}/{kind}/{tag}/{path})"

    return LINK.sub(absolute, readme)


def tracked(folder: Path) -> list[str]:
    """Return the files of a folder that git tracks and that are there, relative to it."""
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=folder, capture_output=True, text=True)
    if listed.returncode:
        sys.exit("release: only a git checkout can be released: what git does not track stays out")
    return [name for name in listed.stdout.split("\0") if name and (folder / name).is_file()]


def copy_package(folder: Path, to: Path, repository: str | None, version: str) -> None:
    """Copy what git tracks of a package, with the README and the addresses that the index shows."""
    for name in tracked(folder):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, to / name)
    readme = to / "README.md"
    text = alone(readme.read_text(encoding="utf-8"), f"packages/{folder.name}", repository, f"v{version}")
    readme.write_text(text, encoding="utf-8")
    if repository is not None:
        project = to / "pyproject.toml"
        urls = f'Repository = "{repository}"\nIssues = "{repository}/issues"\n'
        urls += f'Changelog = "{repository}/blob/v{version}/CHANGELOG.md"\n'
        text = project.read_text(encoding="utf-8")
        if "[project.urls]\n" not in text:
            sys.exit(f"release: {folder.name}/pyproject.toml has no [project.urls]")
        project.write_text(text.replace("[project.urls]\n", f"[project.urls]\n{urls}"), encoding="utf-8")


def build(out: Path, repository: str | None, root: Path = ROOT) -> list[Path]:
    """Build every package's sdist, and its wheel from that, into `out`; return the files. Other files there stay."""
    version = one_version(root)
    uv = shutil.which("uv") or sys.exit("release: uv is missing")
    for folder in packages(root):
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / folder.name
            copy_package(folder, copy, repository, version)
            subprocess.run([uv, "build", "--quiet", "--no-sources", f"--out-dir={out.resolve()}", copy], check=True)
    return sorted(out.glob(f"r2mae_*-{version}[.-]*"))


def contents(file: Path) -> dict[str, bytes]:
    """Return what a wheel or an sdist holds, by its path in the package's folder of the repository."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            return {f"src/{name}": wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(file) as archive:
        files = [member for member in archive.getmembers() if not member.isdir()]
        return {member.name.split("/", 1)[1]: archive.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def targets(markdown: str) -> Iterator[str]:
    """Yield where a text's links and pictures lead, as a Markdown parser sees them."""
    for block in MarkdownIt("commonmark").enable("table").parse(markdown):
        for token in block.children or []:
            yield from (str(token.attrs[key]) for key in ("href", "src") if key in token.attrs)


def says_whose(path: str, held: dict[str, bytes]) -> bool:
    """Return whether a data file is named by a PROVENANCE.md beside it, or its .json states the licence."""
    file = PurePosixPath(path)
    note = held.get(str(file.with_name("PROVENANCE.md")), b"")
    record = held.get(str(file.with_name(f"{file.name.split('.')[0]}.json")), b"")
    return file.name.encode() in note or b'"licence"' in record


def metadata_faults(message: email.message.Message, project: dict) -> list[str]:
    """Return where a built file's metadata is not what the project states, or what an index's page lacks."""
    stated = {
        "Name": project["name"], "Version": project["version"], "Summary": project["description"],
        "License-Expression": project["license"], "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
    }  # fmt: skip
    found = [f"{key} is {message[key]!r}, not {value!r}" for key, value in stated.items() if message[key] != value]
    found += [f"no {key}" for key in ("Classifier", "Project-URL", "License-File") if not message.get_all(key)]
    cores = SpecifierSet(core_range(project["version"]))
    wanted = [Requirement(line) for line in message.get_all("Requires-Dist") or []]
    found += [
        f"it takes {one}, not the cores {cores}"
        for one in wanted
        if one.name == "r2mae-core" != project["name"] and one.specifier != cores
        and (one.marker is None or one.specifier)  # an extra may leave it to what every install asks for
    ]  # fmt: skip
    readme = message.get_payload(decode=True).decode("utf-8")  # type: ignore[union-attr]
    return found + [
        f"the README leads to {to}, which is nowhere"
        for to in targets(readme)
        if to[:1] != "#" and to[:8] != "https://"
    ]


def faults(file: Path, project: dict, allowed: set[str]) -> list[str]:
    """Return what must not be published about a built file. `allowed`: the paths that git tracks in the package."""
    held = contents(file)
    made = {path for path in held if path in {"PKG-INFO", "pyproject.toml.orig"} or ".dist-info/" in path}
    found = [f"{path} is not tracked by git" for path in held if path not in made | allowed]
    found += [
        f"{path} is data, and neither PROVENANCE.md nor a .json beside it says whose and under which licence"
        for path in held
        if path not in made and PurePosixPath(path).suffix not in TEXT and not says_whose(path, held)
    ]
    found += [
        f"no {name}" for name in ("LICENSE", "py.typed") if not any(PurePosixPath(path).name == name for path in held)
    ]
    metadata = [held[path] for path in made if path.endswith(("PKG-INFO", "/METADATA"))]
    return found + metadata_faults(email.message_from_bytes(metadata[0]), project)


def check(files: list[Path], root: Path = ROOT) -> list[str]:
    """Return every fault of the built files, and what is missing among them."""
    found, version = [], one_version(root)
    for folder in packages(root):
        name = folder.name.replace("-", "_")
        allowed = set(tracked(folder))
        for ending in (f"-{version}.tar.gz", f"-{version}-py3-none-any.whl"):
            file = next((file for file in files if file.name == name + ending), None)
            if file is None:
                found.append(f"{name}{ending} was not built")
                continue
            found += [f"{file.name}: {fault}" for fault in faults(file, project_of(folder), allowed)]
    return found


def digests(files: list[Path]) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def build_and_check(out: Path, repository: str | None, root: Path = ROOT) -> list[Path]:
    """Build twice and check; end the program with every fault, or return the files."""
    if repository is not None and not re.fullmatch(r"https://[^/\s]+/[^/\s]+/[^/\s]+", repository):
        sys.exit(f"release: --repository is an address such as https://github.com/OWNER/NAME, got {repository!r}")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("r2mae_*"):  # what is published is what lies there
        old.unlink()
    files = build(out, repository, root)
    with tempfile.TemporaryDirectory() as again:
        second = digests(build(Path(again), repository, root))
    found = check(files, root)
    found += [
        f"{name} differs when it is built again"
        for name, digest in digests(files).items()
        if digest != second.get(name)
    ]
    if found:
        sys.exit("\n".join(["release: not to be published:", *(f"  {fault}" for fault in found)]))
    return files


def main() -> None:
    parser = argparse.ArgumentParser(prog="release", description=(__doc__ or "").split("\n\n", 1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("build", help="build and check every package")
    one.add_argument("--out", type=Path, default=ROOT / "dist", help="folder; files of the packages in it are removed")
    one.add_argument("--repository", help="public address of the repository, such as https://github.com/OWNER/NAME")
    one.add_argument("--tag", help="fail unless this is the tag of the packages' version, such as v0.3.0")
    verbs.add_parser("version", help="set the version of every package").add_argument("version")
    asked = parser.parse_args()
    if asked.verb == "version":
        print(*(file.relative_to(ROOT) for file in set_version(asked.version)), sep="\n")
        return
    if asked.tag not in (None, wanted := f"v{one_version()}"):
        sys.exit(f"release: the tag is {asked.tag}, the packages' version is {wanted[1:]}; the tag must be {wanted}")
    if asked.repository is None:
        print("release: no --repository: the READMEs' links into it are left out")
    print(*build_and_check(asked.out, asked.repository), sep="\n")


if __name__ == "__main__":
    main()
