"""What is published: READMEs that stand alone, one version everywhere, nothing that must not be there."""

import datetime
import io
import re
import shutil
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import release  # noqa: E402

ADDRESS = "https://github.com/OWNER/NAME"
HERE = f"{ADDRESS}/blob/v1.2.3/packages/x"
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


@pytest.fixture
def workspace(tmp_path):
    """Return a copy of what states versions."""
    files = [ROOT / "pyproject.toml", ROOT / "CITATION.cff", ROOT / "tools/template/pyproject.toml"]
    for folder in PACKAGES:
        files += [folder / "pyproject.toml", folder / "src" / folder.name.replace("-", "_") / "__init__.py"]
    for file in files:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "there", "nowhere"),
    [
        ("see [it](../../docs/a.md).", f"see [it]({ADDRESS}/blob/v1.2.3/docs/a.md).", "see it."),
        ("[a\nb](own.md)", f"[a\nb]({HERE}/own.md)", "a\nb"),
        ("x\n\n![p [q]](i.png)\n\ny", f"x\n\n![p [q]]({ADDRESS}/raw/v1.2.3/packages/x/i.png)\n\ny", "x\n\n\n\ny"),
        ("[`f(x)`](a.py#L3)", f"[`f(x)`]({HERE}/a.py#L3)", "`f(x)`"),
        ("[out](https://a.b/c) [down](#part)", None, None),
        ("`[not](a.md)`, ``f[a](b)``", None, None),
        ("```py\nf[a](b)\n\n\n\n```\n", None, None),
        ("```\n[a](b)\n```\n[c](d)", f"```\n[a](b)\n```\n[c]({HERE}/d)", "```\n[a](b)\n```\nc"),
    ],
)  # fmt: skip
def test_links_lead_into_the_repository_or_become_words(text, there, nowhere):
    """None: the text stays."""
    assert release.alone(text, "packages/x", ADDRESS, "v1.2.3") == (text if there is None else there)
    assert release.alone(text, "packages/x", None, "v1.2.3") == (text if nowhere is None else nowhere)


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_every_readme_stands_alone(folder):
    readme = (folder / "README.md").read_text(encoding="utf-8")
    seen = set(release.targets(readme))
    assert any(not re.match("https://|#", target) for target in seen), "this README would test nothing"
    for address in (ADDRESS, None):
        text = release.alone(readme, f"packages/{folder.name}", address, "v9.9.9")
        left = set(release.targets(text))
        assert [target for target in left if not re.match("https://|#", target)] == []
        paths = [re.split("/(?:blob|raw)/v9.9.9/", target)[1] for target in left if ADDRESS in target]
        assert bool(paths) == bool(address)
        assert [path for path in paths if not (ROOT / path.split("#")[0]).exists()] == []
        code = [token.content for token in MarkdownIt().parse(readme) if token.type == "fence"]
        assert [token.content for token in MarkdownIt().parse(text) if token.type == "fence"] == code


def test_one_command_sets_every_version(workspace):
    changed = release.set_version("7.8.9", workspace, datetime.date(2030, 1, 2))
    assert release.one_version(workspace) == "7.8.9"
    assert len(changed) == 2 * len(PACKAGES) + 3
    for file in changed:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"r2mae-core\S*>=(?!7\.8,<7\.9\")", text), file
        if file.name == "__init__.py":
            assert '__version__ = "7.8.9"\n' in text
        elif file.name == "CITATION.cff":
            assert "\nversion: 7.8.9\ndate-released: 2030-01-02\n" in text
    cores = [tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"][0] for file in changed[1:2]]
    assert cores == ["r2mae-core[train]>=7.8,<7.9"]
    assert release.set_version("7.8.9", workspace, datetime.date(2030, 1, 2)) == []


def test_versions_that_differ_or_are_none_are_refused(workspace):
    with pytest.raises(SystemExit, match=r"three numbers.*'7\.8'"):
        release.set_version("7.8", workspace)
    project = workspace / "packages/r2mae-dna/pyproject.toml"
    project.write_text(re.sub("^version = .*", 'version = "3.3.3"', project.read_text(), flags=re.M))
    with pytest.raises(SystemExit, match=r"versions differ.*'r2mae-dna': '3\.3\.3'"):
        release.one_version(workspace)


def test_a_tag_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["release", "build", "--tag", "v0.0.1"])
    with pytest.raises(SystemExit, match=r"the tag is v0\.0\.1, the packages' version is"):
        release.main()


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--repository is an address such as"):
        release.build_and_check(tmp_path, "git@github.com:OWNER/NAME.git")


PROJECT = {
    "name": "r2mae-x", "version": "1.2.3", "description": "It.", "license": "MIT", "requires-python": ">=3.11",
}  # fmt: skip
METADATA = """\
Metadata-Version: 2.4
Name: r2mae-x
Version: 1.2.3
Summary: It.
License-Expression: MIT
License-File: LICENSE
Classifier: Typing :: Typed
Requires-Dist: r2mae-core[train]<1.3,>=1.2
Requires-Python: >=3.11
Project-URL: Paper, https://arxiv.org/abs/2509.21650
Description-Content-Type: text/markdown

# r2mae-x
"""
FILES = {
    "PKG-INFO": METADATA, "LICENSE": "MIT", "src/r2mae_x/py.typed": "", "src/r2mae_x/d/some.csv.gz": "1",
    "src/r2mae_x/page.js": "1", "src/r2mae_x/d/PROVENANCE.md": "some.csv.gz: CC0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"src/r2mae_x/d/PROVENANCE.md": "other.csv.gz: CC0"}, "some.csv.gz is data, and neither"),
        ({"src/r2mae_x/d/PROVENANCE.md": None, "src/r2mae_x/d/some.json": '{"licence": "CC0"}'}, None),
        ({"src/r2mae_x/d/PROVENANCE.md": None, "src/r2mae_x/d/some.json": "{}"}, "some.csv.gz is data, and neither"),
        ({"src/r2mae_x/__pycache__/a.pyc": "1"}, "a.pyc is not tracked by git"),
        ({"LICENSE": None}, "no LICENSE"),
        ({"src/r2mae_x/py.typed": None}, "no py.typed"),
        ({"PKG-INFO": METADATA.replace("1.2.3", "1.2.2")}, "Version is '1.2.2', not '1.2.3'"),
        (
            {"PKG-INFO": METADATA.replace("\nRequires-P", "\nRequires-Dist: r2mae-core[a]; extra == 'a'\nRequires-P")},
            None,
        ),
        ({"PKG-INFO": METADATA.replace("<1.3,>=1.2", "")}, "it takes r2mae-core[train], not the cores"),
        ({"PKG-INFO": METADATA.replace("<1.3,>=1.2", ">=1.1,<1.2")}, "it takes r2mae-core[train]<1.2,>=1.1, not"),
        ({"PKG-INFO": METADATA.replace("Classifier: Typing :: Typed\n", "")}, "no Classifier"),
        ({"PKG-INFO": METADATA + "\n[a](../b.md)\n"}, "the README leads to ../b.md, which is nowhere"),
        ({"PKG-INFO": METADATA + "\n| a |\n|---|\n| ![b](c.png) |\n"}, "the README leads to c.png, which is nowhere"),
    ],
)
def test_what_must_not_be_published_is_noticed(tmp_path, change, fault):
    held = {name: text for name, text in {**FILES, **change}.items() if text is not None}
    file = tmp_path / "r2mae_x-1.2.3.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, text in held.items():
            member = tarfile.TarInfo(f"r2mae_x-1.2.3/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    allowed = {name for name in held if "__pycache__" not in name}
    found = release.faults(file, PROJECT, allowed)
    if fault is None:
        assert found == []
    else:
        assert any(fault in line for line in found), found


def test_the_workflow_publishes_what_the_session_builds():
    """Its tag is checked, it has no secret, and whoever releases needs to change nothing."""
    text = (ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8")
    assert '-- --tag "$GITHUB_REF_NAME" --repository "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"' in text
    assert "id-token: write" in text
    assert "secrets." not in text


@pytest.mark.parametrize("file", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda file: file.name)
def test_workflows_name_full_versions_and_sessions_that_exist(file):
    text = file.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert [action for action in used if not re.search(r"@v\d+\.\d+\.\d+$", action)] == []
    sessions = set(re.findall(r"^def (\w+)\(", (ROOT / "noxfile.py").read_text(encoding="utf-8"), flags=re.M))
    named = re.findall(r"\./dev -s \"?(\w+)", text)
    assert named
    for listed in re.findall(r"^ +(?:session|versions): \[(.*)\]$", text, flags=re.M):
        named += listed.split(", ")
    assert [name for name in named if name not in sessions] == []
