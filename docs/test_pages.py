"""The code in the pages runs: `python -m pytest docs`.

A page is read from top to bottom, and everything happens in one namespace in one temporary folder:

- a ```python block is executed;
- after `<!-- apart -->` it is executed in a process of its own: what it imports starts threads, and later pages fork;
- a ```text block after `<!-- output -->` must be what the last ```python block printed;
- the `$ r2mae-…` commands of a ```console block, those after `srun` or `torchrun` in a ```bash block, and whole
  commands in the text are parsed by the package's own parser: every option must exist, every value be accepted, and
  the options fit each other. After `<!-- run -->` they are executed too. `<!-- run: --steps 2 -->` adds options to
  each of them, and `<!-- run_pretrain: --steps 2 -->` to that verb alone: a page can show the size that a reader
  wants, and the test takes seconds. The commands of the README find `your_data` in their folder.

`<!-- needs: timm, scvi -->` at the top of a page, or before a block, names what must be installed; without it the page,
or the block, is skipped.
"""

import contextlib
import importlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = [
    *(DOCS / f"{name}.md" for name in ("index", "concepts", "scale", "advice", "cost", "extending", "paper")),
    *sorted(DOCS.glob("guides/*.md")),
    ROOT / "README.md",
]
ON_THE_SITE = sorted({*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")})
READMES = [ROOT / "benchmarks" / "RESULTS.md", *sorted(ROOT.glob("packages/*/README.md"))]
"""Their commands are parsed; `nox -s demo` and `release` run them at full size."""
STARTS = {
    "console": re.compile(r"\$ (r2mae-.*)"),
    "bash": re.compile(r"(?:srun |torchrun .*-m )(r2mae[-_].*)"),
}
"""Kind of a block → what stands before a command of ours."""
IN_THE_TEXT = re.compile(r"`(r2mae-[a-z]+\s[^`…]+)`")
BLOCK = re.compile(r"(?P<before>(?:^<!--[^\n]*-->\n)*)^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block, and what the comments right before it say."""

    kind: str
    body: str
    line: int
    marks: dict[str, str]

    @property
    def missing(self) -> list[str]:
        return missing(self.marks.get("needs", ""))

    def commands(self) -> list[list[str]]:
        """Return the words of every command of ours; a backslash continues a line, what follows # is a comment."""
        lines = re.sub(r"\\\n\s*", "", self.body).splitlines()
        found = [STARTS[self.kind].match(line) for line in lines] if self.kind in STARTS else []
        return [_script(shlex.split(each[1], comments=True)) for each in found if each]

    def smaller(self, words: list[str]) -> list[str]:
        """Return the options that the test adds to a command of this block."""
        return shlex.split(self.marks["run"]) + shlex.split(self.marks.get(f"run_{words[1]}", ""))


def _script(words: list[str]) -> list[str]:
    """Return a command by its script's name, also where it is started as a module."""
    return [words[0].removesuffix(".cli").replace("_", "-"), *words[1:]]


def missing(names: str) -> list[str]:
    return [name for name in names.replace(",", " ").split() if find_spec(name) is None]


def marks(comments: str) -> dict[str, str]:
    """Return name → text of comments such as `<!-- run: --steps 2 -->`."""
    found = re.findall(r"<!--\s*(\w+)(?::\s*(.*?))?\s*-->", comments)
    unknown = {name for name, _ in found if not name.startswith("run_")} - {"needs", "run", "output", "apart"}
    assert not unknown, f"unknown marks {unknown}"
    return dict(found)


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(match["kind"], match["body"], text[: match.start("kind")].count("\n") + 1, marks(match["before"]))
        for match in BLOCK.finditer(text)
    ]


def page_needs(page: Path) -> str:
    first = page.read_text(encoding="utf-8").partition("\n\n")[0]
    return marks(first).get("needs", "")


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS if DOCS in page.parents else ROOT)).removesuffix(".md")


def call(words: list[str]) -> int:
    """Run a console script in this process and return its exit code."""
    (script,) = entry_points(group="console_scripts", name=words[0])
    try:
        return script.load()(words[1:]) or 0
    except SystemExit as stop:
        return int(stop.code or 0)


@contextlib.contextmanager
def recorded(script: str, patch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Replace what a script's commands do by a note of their parsed options."""
    package, seen = script.replace("-", "_"), []
    with patch.context() as inner:
        for command in importlib.import_module(f"{package}.cli").COMMANDS.values():
            inner.setattr(command.target.replace(":", "."), seen.append)
        yield seen


def commands() -> list[object]:
    return [
        pytest.param(words, block, id=f"{name_of(page)}:{block.line}-{' '.join(words[:2])}")
        for page in dict.fromkeys([*PAGES, *ON_THE_SITE, *READMES])
        for block in blocks(page)
        for words in block.commands()
    ]


def in_the_text() -> list[object]:
    texts = {page: BLOCK.sub("", page.read_text(encoding="utf-8")) for page in {*PAGES, *ON_THE_SITE, *READMES}}
    found = {" ".join(line.split()): page for page, text in texts.items() for line in IN_THE_TEXT.findall(text)}
    return [pytest.param(shlex.split(line), id=f"{name_of(page)}: {line}") for line, page in sorted(found.items())]


@pytest.mark.parametrize(("words", "block"), commands())
def test_command_parses(words, block, monkeypatch, capsys):
    if lost := missing(words[0].replace("-", "_")) + block.missing:
        pytest.skip(f"not installed: {', '.join(lost)}")
    with recorded(words[0], monkeypatch) as seen:
        code = call(words)
    if {"--help", "--version"} & set(words):
        assert code == 0
        return
    assert (code, len(seen)) == (0, 1), f"{shlex.join(words)}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("words", in_the_text())
def test_command_in_the_text_parses(words, monkeypatch, capsys):
    """A command that names all that is needed; `r2mae-vision pretrain` alone speaks of a verb."""
    if missing(words[0].replace("-", "_")):
        pytest.skip(f"not installed: {words[0]}")
    with recorded(words[0], monkeypatch) as seen:
        code = call(words)
    error = capsys.readouterr().err
    if "arguments are required" in error or "--trust mine" in error:
        return
    assert (code, len(seen)) == (0, 1), error


@pytest.mark.parametrize("line", ["r2mae-text prepare texts --vocabulary 3", "r2mae-theory risk --n many"])
def test_a_wrong_command_is_noticed(line, monkeypatch):
    """The check above can fail."""
    words = line.split()
    if missing(words[0].replace("-", "_")):
        pytest.skip(f"not installed: {words[0]}")
    with recorded(words[0], monkeypatch) as seen:
        assert call(words) == 2
    assert seen == []


def runs(block: Block) -> bool:
    return block.kind == "python" or (block.kind == "console" and "run" in block.marks)


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(runs, blocks(page)))], ids=name_of)
@pytest.mark.filterwarnings("default")  # the packages' own tests are strict; here libraries may warn
def test_page_runs(page, tmp_path, monkeypatch):
    if lost := missing(page_needs(page)):
        pytest.skip(f"not installed: {', '.join(lost)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "MPLBACKEND", "agg")
    if page == ROOT / "README.md":
        your_data()
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        where = f"{name_of(page)}.md, line {block.line}"
        if block.missing:
            continue
        if block.kind == "python" and "apart" in block.marks:
            done = subprocess.run([sys.executable, "-c", block.body], capture_output=True, text=True)
            assert done.returncode == 0, f"{where}: {done.stderr}"
            printed = done.stdout
        elif block.kind == "python":
            printed = execute(block, where, namespace)
        elif "output" in block.marks:
            assert block.body == printed, f"{where}: printed\n{printed}"
        elif block.kind == "console" and "run" in block.marks:
            for words in block.commands():
                code = call([*words, *block.smaller(words)])
                assert code == 0, f"{where}: {shlex.join(words)}"


def your_data() -> None:
    """Write what the README calls the reader's own: photos, texts, an alignment with variants, cells."""
    import anndata
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, kind, i in itertools.product(("train", "val"), ("cat", "dog"), range(12)):
        file = Path("photos", part, kind, f"{i}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
    Path("texts").mkdir()
    for i in range(20):
        Path("texts", f"{i}.txt").write_text(" ".join(f"word {n} of text {i}" for n in range(60)), encoding="utf-8")
    samples = files("r2mae_dna") / "sample_data"
    Path("alignment.maf.gz").write_bytes((samples / "apes-hg19-chr22.maf.gz").read_bytes())
    Path("variants.vcf.gz").write_bytes((samples / "1000genomes-hg19-chr22.vcf.gz").read_bytes())
    cells = anndata.AnnData(rng.poisson(1.0, (60, 30)).astype(np.float32))
    cells.obs["batch"] = np.repeat(["a", "b"], 30)
    cells.write_h5ad("cells.h5ad")


def execute(block: Block, where: str, namespace: dict[str, object]) -> str:
    """Execute a block and return what it printed. Tracebacks show its lines in the page."""
    code = compile("\n" * block.line + block.body, where, "exec")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, namespace)
    sys.stdout.write(output.getvalue())
    return output.getvalue()


@pytest.mark.parametrize("package", ["r2mae_vision", "r2mae_text", "r2mae_dna", "r2mae_singlecell", "r2mae_theory"])
def test_paper_page_has_every_target(package):
    """Whatever a `reproduce…` command can draw is on the page."""
    if missing(package):
        pytest.skip(f"not installed: {package}")
    commands = importlib.import_module(f"{package}.cli").COMMANDS
    verbs = [verb for verb in commands if verb.startswith("reproduce")]
    targets = {verb: get_args(get_type_hints(commands[verb].config)["target"]) for verb in verbs}
    assert any(targets.values())
    text = (DOCS / "paper.md").read_text(encoding="utf-8")
    lost = [f"{verb} {one}" for verb in verbs for one in targets[verb] if not re.search(rf"({verb}|…) {one}\b", text)]
    assert lost == []


@pytest.mark.parametrize("page", sorted({*ON_THE_SITE, *PAGES, *READMES, ROOT / "CONTRIBUTING.md"}), ids=name_of)
def test_code_is_read_without_scrolling(page):
    """On the site a code block of a desktop's window holds 124 letters in a line (`nox -s browser` looks)."""
    long = [
        f"line {block.line + i}: {len(line)} letters"
        for block in blocks(page)
        for i, line in enumerate(block.body.splitlines(), 1)
        if len(line) > 124
    ]
    assert long == []


def test_every_guide_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [name_of(page) for page in ON_THE_SITE if name_of(page) != "index" and name_of(page) not in index] == []


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=name_of)
def test_links_to_files_of_the_repository(page):
    """Every relative link leads to a file that is there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    lost = [t for t in targets if t and "://" not in t and not (page.parent / t).exists()]
    assert lost == []
