"""`reproduce`: which experiment a table or figure of the paper belongs to."""

from dataclasses import fields

from r2mae_core import RunFolder, UserError
from r2mae_vision.options import Reproduce

TABLE1, MNIST, CELEBA = ("table1",), ("fig2a", "fig2d"), ("fig2b", "fig5", "fig6", "fig7")
# Options that only some figures have a use for; the others are shared.
ONLY_FOR = {
    **dict.fromkeys(("schemes", "pretrain", "finetune", "probe", "judge"), TABLE1),
    **dict.fromkeys(("ratios", "ranges"), (*MNIST, *CELEBA)),
    **dict.fromkeys(("data", "download", "hidden1", "hidden2"), MNIST),
    **dict.fromkeys(("cache", "side", "crop", "output", "dropout", "batch_size", "precision", "workers"), CELEBA),
    "base_channels": ("fig2b",),
}


def reproduce(config: Reproduce) -> RunFolder | None:
    """Walk one figure's grid and return the run folder (None: a dry run).

    Raises:
        UserError: an option was changed that this figure has no use for; and whatever the experiment raises.
    """
    refuse_foreign_options(config)
    if config.target in TABLE1:
        from r2mae_vision.table1 import reproduce as walk
    elif config.target in MNIST:
        from r2mae_vision.mnist.paper import reproduce as walk
    else:
        from r2mae_vision.celeba.paper import reproduce as walk
    return walk(config)


def refuse_foreign_options(config: Reproduce) -> None:
    """Raise a UserError if an option differs from its default that the target would ignore."""
    changed = [
        field.name
        for field in fields(config)
        if config.target not in ONLY_FOR.get(field.name, (config.target,))
        and getattr(config, field.name)
        != (field.default_factory() if callable(field.default_factory) else field.default)
    ]
    if changed:
        shown = ", ".join(f"--{name} (for {', '.join(ONLY_FOR[name])})" for name in changed)
        raise UserError(f"{config.target} has no use for {shown}; leave it out")
