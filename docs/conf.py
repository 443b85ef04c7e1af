"""The documentation site. Built by `nox -s docs`, offline, every warning an error; looked at by `nox -s browser`."""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from public_names import listing

project = "r2mae"
author = "The r2mae authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_title = "r2mae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options = {"navbar_persistent": [], "navbar_end": []}  # the search stands in the sidebar
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # notebooks are shown with the outputs that `nox -s notebooks` checks
nb_render_markdown_format = "myst"  # tables
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # an override without its own docstring is documented by its base

# Pages of the repository that are pages of the site under another name.
PAGE_OF = {
    **{f"../packages/r2mae-{name}/README.md": f"{name}.md" for name in ("core", "vision", "text", "dna", "singlecell")},
    "../packages/r2mae-theory/README.md": "theory.md",
    "../benchmarks/RESULTS.md": "results.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
}


def _links_of_included(app, relative_path, parent, content):
    """Let the links of an included file lead where they lead in the repository, or to the page of that file."""
    folder = Path(relative_path).parent

    def moved(found):
        target, _, anchor = found[2].partition("#")
        if "://" in target or not target:
            return found[0]
        place = os.path.normpath(folder / target)
        place = PAGE_OF.get(place, place)
        if place.startswith("../") and not found[1].startswith("!"):
            place = f"path:{place}"  # no page of the site: the file itself
        return f"{found[1]}({place}{'#' * bool(anchor)}{anchor})"

    content[0] = re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", moved, content[0])


def _public_names(app, docname, source):
    """Put the listing of a package where the reference names it."""
    if docname == "reference":
        source[0] = re.sub(
            r"<!-- public: (\w+) -->", lambda found: f"```{{eval-rst}}\n{listing(found[1])}\n```", source[0]
        )


def _modules_with_source(app):
    """Keep viewcode from linking modules that have no Python source, such as `builtins`."""
    found = getattr(app.env, "_viewcode_modules", {})
    for name in [name for name, entry in found.items() if not entry]:
        del found[name]
    return []  # no page of its own


def setup(app):
    app.connect("source-read", _public_names)
    app.connect("include-read", _links_of_included)
    app.connect("html-collect-pages", _modules_with_source, priority=400)  # before viewcode writes its pages
