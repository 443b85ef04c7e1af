"""The documentation site. Built by `nox -s docs`, offline, every warning an error."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from public_names import listing

project = "r2mae"
author = "The r2mae authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_title = "r2mae"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # an override without its own docstring is documented by its base
# READMEs link to each other in the repository, where these targets are.
suppress_warnings = ["myst.xref_missing"]


def _public_names(app, docname, source):
    """Put the listing of a package where the reference names it."""
    if docname == "reference":
        source[0] = re.sub(
            r"<!-- public: (\w+) -->", lambda found: f"```{{eval-rst}}\n{listing(found[1])}\n```", source[0]
        )


def setup(app):
    app.connect("source-read", _public_names)
