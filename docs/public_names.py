"""The public names of a package, as the reference shows them: what its `__init__` exports, by the module it is in."""

import ast
import importlib
import inspect
from pathlib import Path

PACKAGES = ("r2mae_core", "r2mae_vision", "r2mae_text", "r2mae_dna", "r2mae_singlecell", "r2mae_theory")


def homes(package: str) -> dict[str, list[str]]:
    """Return module → the public names that are defined in it, in the order of the package's `__init__`."""
    module = importlib.import_module(package)
    folder = Path(str(module.__file__)).parent
    stub = folder / "__init__.pyi"
    tree = ast.parse((stub if stub.exists() else folder / "__init__.py").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and (node.level or node.module.startswith(package)):
            home = f"{package}.{node.module}" if node.level else node.module
            names = [alias.name for alias in node.names if alias.name in module.__all__]
            found.setdefault(home, []).extend(names)
    return {home: names for home, names in found.items() if names}


def listing(package: str) -> str:
    """Return reStructuredText that documents every public name of a package."""
    lines = []
    for home, names in homes(package).items():
        module = importlib.import_module(home)
        lines += [f".. rubric:: {home}", ""]
        for name in names:
            if not hasattr(module, name):  # a module that is public itself
                importlib.import_module(f"{home}.{name}")
                lines += [f".. automodule:: {home}.{name}", "   :members:", ""]
                continue
            value = getattr(module, name)
            annotated = hasattr(value, "__metadata__")  # callable, with typing's own docstring
            kind = "autoclass" if inspect.isclass(value) else "autodata"
            if callable(value) and not inspect.isclass(value) and not annotated:
                kind = "autofunction"
            if kind == "autodata" and not _is_documented(module, name):
                kind = "py:data"  # autodoc would show the text of its type
            if inspect.isclass(value) and issubclass(value, BaseException):
                kind = "autoexception"
            lines += [f".. {kind}:: {home}.{name}", *(["   :members:"] if kind == "autoclass" else []), ""]
    return "\n".join(lines)


def _is_documented(module: object, name: str) -> bool:
    """Return whether an assignment in a module has a docstring below it."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False
