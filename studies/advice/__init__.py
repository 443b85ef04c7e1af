"""Does the theory help practice? The ratio that `r2mae-theory advise` recommends, beside curves of real models.

    python -m studies.advice measure pbmc --seeds 5      # trains; an interrupted one resumes
    python -m studies.advice report                      # the page's tables and figures, from what was measured

`docs/advice.md` is the page. Needs every package, as `nox -s study` installs them.
"""
