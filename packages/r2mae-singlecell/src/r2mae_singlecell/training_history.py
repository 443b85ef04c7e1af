"""What a training logged, as scvi-tools returns it; a key that other models have is answered with the right one."""

from typing import Any

_INSTEAD = {
    "elbo_train": "train_loss",
    "elbo_validation": "validation_loss",
    "train_loss_epoch": "train_loss",
    "train_loss_step": "train_loss",
}


class History(dict[str, Any]):
    """Metric → data frame with a row for each epoch."""

    def __missing__(self, name: str) -> Any:
        if str(name).startswith("kl_"):
            reason = "R2MAE has no KL term; its loss is"
        elif str(name).startswith("elbo"):
            reason = "R2MAE has no evidence lower bound; its loss is"
        else:
            reason = f"there is no {name!r} in this history; the loss is"
        there = ", ".join(self) or "nothing, as no epoch was finished"
        instead = _INSTEAD.get(name, "validation_loss" if "valid" in str(name) else "train_loss")
        missing = "" if instead in self else " (validation was off: check_val_every_n_epoch=1 turns it on)"
        raise KeyError(f"{reason} history[{instead!r}]{missing}. Logged: {there}")
