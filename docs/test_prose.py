"""What the prose says of options, extras, sessions, links, counts and measurements is so."""

import importlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parent
ROOT = DOCS.parent
READMES = sorted(ROOT.glob("packages/*/README.md"))
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
PAGES = [
    *sorted({*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")}), *READMES, RESULTS, ROOT / "examples" / "README.md",
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
]  # fmt: skip
EVERYWHERE = {"help", "version", "trust"}  # of every command line, beside the options of its commands
OF_OTHERS = {
    "CHANGELOG.md": {  # what was renamed, and options of our tools
        "constants", "n_seeds", "hidden", "layers", "heads", "scope", "root", "judge", "warmup_epochs", "corpus",
        "windows", "test", "validation", "save", "save_model",
    },
    "compare.md": {"mlm_probability"},
    "install.md": {"no_demo"},
    "advice.md": {"share"},
    "README.md": {"fungi"},
    "CONTRIBUTING.md": {"exact"},
}  # fmt: skip


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """Return a page without its blocks of code, which `test_pages.py` parses and runs."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def options() -> dict[str, dict[str, set[str]]]:
    """Return package → verb → names of its options."""
    found: dict[str, dict[str, set[str]]] = {}
    for name in (readme.parent.name.replace("-", "_") for readme in READMES):
        if name != "r2mae_core" and find_spec(name) is not None:
            commands = importlib.import_module(f"{name}.cli").COMMANDS
            found[name] = {verb: {field.name for field in fields(one.config)} for verb, one in commands.items()}
    return found


def options_in_code(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (package or "", verb or "", option) of what is set as code: `probe --pool avg`, `--pool`."""
    for code in re.findall(r"`([^`]+)`", text):
        if re.match(r"(nox|\./dev|uv|pip|sh|torchrun|python|\w+\.py)\b", code):
            continue
        head = re.match(r"(?:… )?(?:(r2mae-\w+) )?(?:([a-z][a-z-]*)\b)?", code)
        assert head
        for word in re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)", code):
            yield (head[1] or "").replace("-", "_"), head[2] or "", word.replace("-", "_")


def unknown(page: Path, every: dict[str, dict[str, set[str]]]) -> list[str]:
    own = page.parent.name.replace("-", "_") if page in READMES else f"r2mae_{page.stem}"
    lost = []
    for package, verb, option in options_in_code(prose(page)):
        if option in EVERYWHERE | OF_OTHERS.get(page.name, set()):
            continue
        packages = [name for name in (package, own) if name in every][:1] or list(every)
        pools = [every[name].get(verb) or set().union(*every[name].values()) for name in packages]
        if not any({option, option.removeprefix("no_")} & pool for pool in pools):
            lost.append(f"{package} {verb} --{option}".strip())
    return lost


@pytest.mark.parametrize("page", [page for page in PAGES if page != RESULTS], ids=name_of)
def test_options_in_the_prose_are_options(page):
    every = options()
    if len(every) < len(READMES) - 1:
        pytest.skip("not every package is installed")
    assert unknown(page, every) == []


def test_a_wrong_option_is_noticed(tmp_path):
    every = {"r2mae_vision": {"probe": {"pool"}, "sweep": {"metric"}}}
    page = tmp_path / "vision.md"
    page.write_text("`--pool avg`, `sweep --metric top1`, `probe --pool avg`, `--no-pool`, `nox -s x -- --share 1`")
    assert unknown(page, every) == []
    page.write_text("`--pools`, `probe --metric top1`")
    assert unknown(page, every) == ["--pools", "probe --metric"]


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_every_verb_is_in_the_readmes_table(readme):
    verbs = options().get(readme.parent.name.replace("-", "_"), {})
    rows = "\n".join(re.findall(r"^\|.*", readme.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert [verb for verb in verbs if not re.search(rf"`{verb}\b", rows)] == []


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_every_extra_is_in_the_table_of_the_installation(readme):
    project = tomllib.loads((readme.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    row = re.search(rf"^\|[^|]*\| `{project['name']}` \|.*$", page, flags=re.MULTILINE)
    assert row
    assert [extra for extra in project.get("optional-dependencies", {}) if f"`{extra}`" not in row[0]] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_sessions_exist(page):
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text("utf-8"), flags=re.MULTILINE))
    named = re.findall(r"(?:nox|\./dev) -s \"?(\w+)", page.read_text(encoding="utf-8"))
    assert set(named) <= sessions


def slug(heading: str) -> str:
    """Return the anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w\s-]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" in link:
            continue
        headings = re.findall(r"^#+ (.*)$", prose(target), flags=re.MULTILINE) if anchor and target.is_file() else []
        if not target.exists() or (anchor and anchor not in map(slug, headings)):
            lost.append(link)
    assert lost == []


def test_the_changes_that_tests_must_notice_are_counted():
    lines = (ROOT / "tools" / "mutants.jsonl").read_text(encoding="utf-8").splitlines()
    counts = Counter(json.loads(line)["file"].split("/")[1].removeprefix("r2mae-") for line in lines)
    page = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    found = re.search(
        r"lists (\d+) ways to break the code, .*?: core (\d+), dna (\d+), vision and text (\d+) each, "
        r"theory and single cells (\d+) each", page,
    )  # fmt: skip
    assert found
    total, core, dna, two, small = map(int, found.groups())
    said = {"core": core, "dna": dna, "vision": two, "text": two, "theory": small, "singlecell": small}
    assert (total, said) == (len(lines), dict(counts))


def test_the_release_has_one_date():
    cited = re.search(r"^version: (.*)\ndate-released: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert cited
    assert f"\n## {cited[1]} - {cited[2]}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def numbers(text: str) -> set[str]:
    """Return the numbers of three digits or more, without the commas: 1,234 and 0.12."""
    found = re.findall(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.,])\d+(?:\.\d+)?", text)
    return {n.replace(",", "") for n in found if sum(letter.isdigit() for letter in n) > 2}


def not_measured(text: str, measured: set[str]) -> list[str]:
    """Return the numbers that no measured one rounds to: to as many decimals, or to hundreds where they end so."""
    lost = []
    for one in numbers(text):
        places = len(one.partition(".")[2]) if "." in one else -2 if one.endswith("00") else 0
        if not any(round(float(other), places) == float(one) for other in measured):
            lost.append(one)
    return sorted(lost)


def test_what_is_said_against_others_was_measured():
    """Of the paragraphs "Numbers" of the comparison, each stands in RESULTS.md or in a package's README."""
    text = (DOCS / "compare.md").read_text(encoding="utf-8")
    said = re.findall(r"^\*\*Numbers\.\*\*.*?\n\n", text, flags=re.MULTILINE | re.DOTALL)
    assert len(said) == 4
    measured = set().union(*(numbers(page.read_text(encoding="utf-8")) for page in (RESULTS, *READMES)))
    assert not_measured("\n".join(said), measured) == []
    assert not_measured("54,400 cells/s, 1.06×, 323,100", measured) == ["54400"]
