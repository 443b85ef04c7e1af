"""The tests import `checks`, the module beside them, and share a browser."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def chromium():
    import checks  # needs playwright, which is not where the other pages are tested

    if checks.find_browser() is None and "R2MAE_SITE" not in os.environ:  # the site's session must not pass by skipping
        pytest.skip(checks.TO_INSTALL)
    with checks.browser() as opened:
        yield opened
