"""The first import of a command-line script: Ctrl-C while it still imports is a line, not a traceback.

Once the command runs, `run` answers Ctrl-C and SIGTERM.
"""

import sys
from pathlib import Path
from types import TracebackType


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)  # noqa: T201
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say
