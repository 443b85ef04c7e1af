"""`r2mae-singlecell push`: a run's model on the hub, as scvi-hub keeps models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from scvi.model.base import BaseModelClass

from r2mae_core import CardFacts, PushOptions, SharedModel, UserError, folder_or_fetched, model_card, push, write_text
from r2mae_singlecell.hub import EXPORT, UNNAMED, card_facts, write_files


def push_command(config: PushOptions) -> None:
    """`r2mae-singlecell push`."""
    from r2mae_singlecell.cli import COMMANDS

    push(config, "r2mae-singlecell", COMMANDS, write_model)


def write_model(run: Path, folder: Path) -> CardFacts:
    """Write the model of a finished run into a folder, and say what it is.

    Raises:
        UserError: the run has no finished model, or it is damaged.
    """
    from r2mae_singlecell.r2mae import R2MAE

    if not (run / "model" / "model.json").exists():
        raise UserError(f"{run} has no finished model; push the run folder of a pretraining that has ended")
    model = R2MAE.from_export(run / "model")
    write_files(model, folder)
    return card_facts(model)


class SharedMixin(SharedModel, BaseModelClass):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` of `R2MAE`; the layout is scvi-hub's."""

    hub_files: ClassVar[Sequence[str]] = (f"{EXPORT}/*",)

    def write_pretrained(self, folder: Path) -> None:
        """Write what scvi-hub asks for, with our export in it and a short card."""
        write_files(self, folder)
        write_text(folder / "README.md", model_card(self.card_facts(), UNNAMED, title="R2MAE"))

    @classmethod
    def read_pretrained(cls, folder: Path) -> Self:
        """Read the export in such a folder, in a run folder, or the folder itself."""
        return cls._read(folder)

    @classmethod
    def from_pretrained(
        cls, place: str | Path, *, revision: str | None = None, adata: Any = None, device: str = "cpu"
    ) -> Self:
        """Read a model without a pickle.

        Args:
            place: a folder of `save_pretrained`, `export` or a run, or OWNER/NAME on the hub.
            revision: branch, tag or commit on the hub; None: main.
            adata: data to use the model with; None: give it to each method.
            device: the network's device.

        Raises:
            UserError: there is no such model, it is damaged, or the genes or categories of `adata` are not the model's.
        """
        return cls._read(folder_or_fetched(place, revision, cls.hub_files), adata, device)

    @classmethod
    def _read(cls, folder: Path, adata: Any = None, device: str = "cpu") -> Self:
        homes = (folder / EXPORT, folder / "model", folder)
        home = next((home for home in homes if (home / "model.json").exists()), folder)
        return cls.from_export(home, adata, device)  # pyright: ignore[reportAttributeAccessIssue]

    def card_facts(self) -> CardFacts:
        """Return what its card on the hub says of it."""
        return card_facts(self)
