"""`plan_config` and `trainer_config` of `train`: what they set is heeded, or refused; nothing is overridden unsaid."""

from collections.abc import Collection, Mapping
from typing import Any

from scvi.train._config import merge_kwargs

from r2mae_core import UserError


def plan_options(config: Any, given: Any) -> dict[str, Any]:
    """Return the options of the plan: those of a dict `plan_config`, and over them `plan_kwargs`.

    Raises:
        UserError: the config is an object of scvi-tools, which cannot say what of it the user has set.
    """
    if config is not None and not isinstance(config, Mapping):
        raise UserError(
            f"plan_config={type(config).__name__}(...) carries SCVI's defaults (weight_decay, eps, …), which are "
            "others here, and what you set cannot be told from them; give a dict of it: plan_kwargs={'lr': …}"
        )
    return merge_kwargs(config, given, name="plan")


def trainer_options(config: Any, given: Mapping[str, Any], arguments: Collection[str]) -> dict[str, Any]:
    """Return the options of the trainer: those that `trainer_config` sets, and over them those given by name.

    Args:
        config: a dict, or an object of scvi-tools; of that, what differs from its defaults (the trainer's).
        given: by name.
        arguments: of `train`, which decide before any config.

    Raises:
        UserError: the config sets one of these arguments.
    """
    if config is None:
        return dict(given)
    found = merge_kwargs(config, None, name="trainer")
    if not isinstance(config, Mapping):
        defaults = type(config)().to_kwargs()
        found = {name: value for name, value in found.items() if name not in defaults or value != defaults[name]}
    if clash := [name for name in found if name in arguments]:
        raise UserError(
            f"trainer_config sets {clash[0]}, which is an argument of train and decided there; "
            f"call train({clash[0]}={found[clash[0]]!r})"
        )
    return {**found, **given}
