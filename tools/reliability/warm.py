"""A process that has imported one package, and forks a child for each command: importing torch takes seconds.

Started as `python warm.py PACKAGE`. Reads a JSON object per line from its input, and answers with one line when the
child runs and one when it has ended.
"""

import importlib
import json
import os
import random
import select
import shutil
import sys
from typing import Any


def serve(package: str) -> None:
    """Import the package with all that its commands need, then start a command for each line."""
    cli = importlib.import_module(f"r2mae_{package}.cli")
    for command in cli.COMMANDS.values():
        importlib.import_module(command.target.partition(":")[0])
    running: dict[int, int] = {}  # process → number of the request
    rest = b""
    while True:
        if select.select([0], [], [], 0.005)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                child = os.fork()
                if not child:
                    become(package, request)
                    cli.main(request["words"])
                    raise AssertionError("a command ends with sys.exit")
                running[child] = request["number"]
                print(json.dumps({"number": request["number"], "pid": child}), flush=True)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                print(json.dumps({"number": running.pop(pid), "code": code}), flush=True)


def become(package: str, request: dict[str, Any]) -> None:
    """Make this child what a newly started process would be."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        file = os.open(request.get(name, name), mode | os.O_CREAT | os.O_TRUNC if number else mode, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [shutil.which(f"r2mae-{package}") or f"r2mae-{package}", *request["words"]]
    random.seed()  # else what must not be left to chance would be the same in every child
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


if __name__ == "__main__":
    serve(sys.argv[1])
