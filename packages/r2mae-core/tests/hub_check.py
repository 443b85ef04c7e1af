"""What every package's tests of sharing need: the stand-in of the hub, and processes that know it alone."""

import json
import re
import subprocess
import sys

from hub_stand_in import Hub

__all__ = ["Hub", "code_of", "push_code", "run_python", "sent"]
_OURS = ("r2mae_core", "r2mae_dna", "r2mae_text", "r2mae_vision", "r2mae_singlecell", "r2mae_theory")


def code_of(card):
    """Return library → Python of a model's card."""
    return dict(re.findall(r"^With ([\w-]+)[^\n]*:\n\n```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE))


def sent(hub, name, revision="main"):
    """Return {path: content} of what was sent to a repository."""
    return {path: content for path, content in hub.files(name, revision).items() if path != ".gitattributes"}


def run_python(code, env, cwd, *, peers_only=False):
    """Run Python in a process, and return what it assigned to `found`, as JSON has it.

    Args:
        code: it sees no `found`.
        env: such as `Hub.environment`.
        cwd: its current folder.
        peers_only: none of our packages can be imported there.
    """
    block = f"import sys\nsys.modules.update(dict.fromkeys({_OURS}))\n" if peers_only else ""
    end = "\nimport json, sys\nsys.stdout.write('= ' + json.dumps(found) + '\\n')\n"
    words = [sys.executable, "-c", block + code + end]
    done = subprocess.run(words, capture_output=True, text=True, env={**env, "CUDA_VISIBLE_DEVICES": ""}, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith("= "))


def push_code(package, run, name, *more):
    """Return Python that runs a package's `push` and assigns its exit code to `code`."""
    words = [str(word) for word in ("push", run, name, "--license", "mit", *more)]
    return f"from {package}.cli import main\ntry:\n    main({words})\nexcept SystemExit as end:\n    code = end.code\n"
