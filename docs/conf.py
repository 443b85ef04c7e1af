"""The documentation site. Built by `nox -s docs`, offline, every warning an error."""

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
# READMEs link to each other in the repository, where these targets are.
suppress_warnings = ["myst.xref_missing"]
