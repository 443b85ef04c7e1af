"""Scores combined by logistic regression, each chromosome predicted by a model that never saw it (TraitGym)."""

import numpy as np

from r2mae_core import UserError

STRENGTHS = np.logspace(-8, 0, 10)
"""Inverse regularisation strengths that are tried, as in TraitGym (songlab-cal/TraitGym, workflow/rules/common.smk)."""
MAX_FOLDS = 5


def combine(features: np.ndarray, labels: np.ndarray, chromosomes: np.ndarray) -> np.ndarray:
    """Return the probability of a positive label, (n,) float64, from a logistic regression on the other chromosomes.

    Features are standardised and classes balanced; the strength is the one with the best average precision in
    cross-validation over the training chromosomes. All of it is fitted anew without each chromosome.

    Args:
        features: (n, k) scores without missing values.
        labels: (n,) bool.
        chromosomes: (n,) names.

    Raises:
        UserError: fewer than three chromosomes have both labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = np.unique(chromosomes)
    both = [name for name in names if 0 < labels[chromosomes == name].sum() < (chromosomes == name).sum()]
    if len(both) < 3:
        raise UserError(
            f"--combine holds chromosomes out, and needs three with positive and negative rows; {len(both)} have them"
        )
    damage = np.empty(len(labels))
    for name in names:
        held_out = chromosomes == name
        # Folds of chromosomes with both labels, so that every fold has an average precision.
        fit = ~held_out & np.isin(chromosomes, both)
        groups = chromosomes[fit]
        folds = GroupKFold(min(MAX_FOLDS, len(np.unique(groups))))
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring="average_precision", cv=folds)
        search.fit(features[fit], labels[fit], groups=groups)
        damage[held_out] = search.predict_proba(features[held_out])[:, 1]
    return damage
