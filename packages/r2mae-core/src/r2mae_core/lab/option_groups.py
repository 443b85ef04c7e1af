"""The groups of a help page, and which shared option belongs to which."""

from dataclasses import fields
from typing import Any

GROUPS: dict[str, tuple[str, ...]] = {
    "data": (
        "data", "validation", "max_windows", "validation_ratios", "workers", "tasks", "regions", "bed", "aliases",
        "more_msa", "task_data",
    ),
    "scheme": ("mask_ratio", "ratio_per", "freeze_steps", "scale_curriculum", "schemes", "ratios", "ranges"),
    "model": (
        "model", "models", "start", "model_args", "n_hidden", "n_latent", "n_layers", "n_heads", "dropout",
        "pool", "drop_path",
    ),
    "optimisation": (
        "steps", "tokens", "minutes", "epochs", "batch_size", "micro_batch_size", "lr", "base_lr", "warmup",
        "warmup_epochs", "weight_decay", "betas", "eps", "clip", "patience", "keep", "seed", "seeds", "n_seeds",
        "adapt", "judge_every", "judge_patience", "budget_runs", "budget_minutes",
    ),
    "hardware": ("device", "devices", "nodes", "strategy", "precision", "compile", "peak_tflops"),
    "sharing": ("license", "license_name", "note", "private", "update", "revision"),
    "output": (
        "validate_every", "checkpoint_every", "log_every", "logger", "dry_run", "markdown", "csv", "out",
        "out_model", "overwrite", "progress", "storage",
    ),
}  # fmt: skip
"""Group → options that have one meaning in every package."""


def option_groups(config: type) -> dict[str, str]:
    """Return the group of every option of a command.

    What is not in `GROUPS` is a package's own, and belongs to the group of the option before it in the same class, the
    first of a class to the data: a class's fields stand in the order of their groups, and know nothing of a parent's.
    """
    found, shared = {}, {name: group for group, names in GROUPS.items() for name in names}
    group, before = "data", None
    for field in _own_order(config):
        home = _home(config, field)
        group = shared.get(field, group if home is before else "data")
        found[field], before = group, home
    return found


def _home(config: type, field: str) -> type:
    """Return the class that states a field: the nearest, as a class may state its parent's anew."""
    return next(cls for cls in config.__mro__ if field in getattr(cls, "__annotations__", {}))


def _own_order(config: type) -> list[str]:
    """Return a dataclass's fields, its own before those that it inherits."""
    own = list(getattr(config, "__annotations__", {}))
    names = [field.name for field in fields(config)]
    return [name for name in own if name in names] + [name for name in names if name not in own]


def group_options(parser: Any, config: type) -> None:
    """Show a parser's options under the titles of their groups; those without one stay where they are."""
    groups = option_groups(config)
    titled: dict[str, Any] = {}
    for group in GROUPS:
        if group in groups.values():
            titled[group] = parser.add_argument_group(f"{group} options")
    for shown in list(parser._action_groups):
        for action in [a for a in shown._group_actions if a.option_strings and a.dest.partition(".")[0] in groups]:
            shown._group_actions.remove(action)
            titled[groups[action.dest.partition(".")[0]]]._group_actions.append(action)
