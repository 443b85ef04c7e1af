"""Write the package of a new modality from the template beside this file: `./dev -s new -- NAME`.

The package trains, resumes and compares at once, and has its tests. The workspace finds it by its folder; only the
lists of the import contracts in pyproject.toml are edited.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEMPLATE = Path(__file__).with_name("template")
LAST = '"r2mae_theory"]'  # what the lists of packages in pyproject.toml end with


def write_package(name: str, root: Path = ROOT) -> Path:
    """Write packages/r2mae-NAME and return its folder."""
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        sys.exit(f"new: the name must be lower-case letters and digits, such as proteins, got {name!r}")
    home = root / "packages" / f"r2mae-{name}"
    if home.exists():
        sys.exit(f"new: {home} exists already")
    core = tomllib.loads((ROOT / "packages" / "r2mae-core" / "pyproject.toml").read_text(encoding="utf-8"))
    words = {"NAME": name, "0.0.0": core["project"]["version"]}
    for file in sorted(path for path in TEMPLATE.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        target = home / re.sub("NAME", name, str(file.relative_to(TEMPLATE)))
        target.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"NAME|0\.0\.0", lambda found: words[found[0]], file.read_text(encoding="utf-8"))
        target.write_text(text, encoding="utf-8")
    project = root / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(text.replace(LAST, f'{LAST[:-1]}, "r2mae_{name}"]'), encoding="utf-8")
    return home


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("new: name the modality: ./dev -s new -- NAME")
    folder = write_package(sys.argv[1])
    print(f"{folder.relative_to(ROOT)} is there. Test it: ./dev -s 'tests({sys.argv[1]})'; then docs/extending.md.")
