"""Does R2MAE help? Every comparison of schemes that this project has measured, on one page.

    python -m studies.evidence add NAME RUN      # keep the results of a run folder as results/NAME.json
    python -m studies.evidence report            # the tables and the figure of docs/evidence.md, from what is kept

`sources` reads what was measured, `difference` compares, `published` has the paper's own differences, `report` writes.
Needs every package, as `nox -s schemes` installs them.
"""
