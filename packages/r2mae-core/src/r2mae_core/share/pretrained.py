"""`save_pretrained`, `from_pretrained` and `push_to_hub` for the models of our own.

Not huggingface_hub's mixin: that one loads what fits and leaves the other weights random (`strict=False`), and must be
imported with the model. The methods have its names, and a hub's repository its layout.
"""

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import whole_folder
from r2mae_core.share.hub import check_licence, check_name, folder_or_fetched, send
from r2mae_core.share.model_card import FIGURE, CardFacts, model_card, write_card
from r2mae_core.share.private import refuse_private


class SharedModel:
    """A model that is written to a folder, read from a folder or from the hub, and sent there."""

    hub_files: ClassVar[Sequence[str]]
    """Patterns of the files that `from_pretrained` needs."""

    @abstractmethod
    def write_pretrained(self, folder: Path) -> None:
        """Write the model into a folder that is there and empty, with what checks it when it is read."""

    @classmethod
    @abstractmethod
    def read_pretrained(cls, folder: Path) -> Self:
        """Read what `write_pretrained` wrote.

        Raises:
            UserError: it is not there, damaged, or another model's.
        """

    @abstractmethod
    def card_facts(self) -> CardFacts:
        """Return what its card says of it."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model into a folder, whole or not at all.

        Args:
            folder: a new one, or one that holds such a model, which is replaced.

        Raises:
            UserError: it holds other files, or the disk is full.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise UserError(f"{target} is a file; name a folder")
        with whole_folder(target) as new:
            self.write_pretrained(new)
            known = {*_names(new), "README.md", FIGURE}
            if foreign := sorted(_names(target) - known):
                raise UserError(f"{target} holds {foreign[0]}, which is not of such a model; name another folder")

    @classmethod
    def from_pretrained(cls, place: str | Path, *, revision: str | None = None) -> Self:
        """Read a model, in evaluation mode.

        Args:
            place: a folder, or OWNER/NAME on the hub.
            revision: branch, tag or commit on the hub; None: main.

        Raises:
            UserError: there is no such model, or it is damaged; nothing is filled in.
        """
        return cls.read_pretrained(folder_or_fetched(place, revision, cls.hub_files))

    def push_to_hub(
        self,
        name: str,
        *,
        license: str,
        license_name: str | None = None,
        private: bool = False,
        update: bool = False,
        revision: str | None = None,
    ) -> str:
        """Send the model to the hub, with a short card; the command `push` writes one that tells of the training.

        Args:
            name: OWNER/NAME, or NAME for one's own account.
            license: the hub's name of the licence of the weights, such as "mit".
            license_name: of a licence that the hub calls "other".
            private: make a new repository private.
            update: the name exists and is to hold this model; its older revisions stay.
            revision: branch; None: main.

        Returns:
            the commit.

        Raises:
            UserError: the name exists, or there is no token or network.
        """
        check_name(name)
        card = model_card(
            self.card_facts(), name, license=check_licence(license, license_name), license_name=license_name
        )
        with tempfile.TemporaryDirectory(prefix="r2mae-push-") as new:
            folder = Path(new)
            self.write_pretrained(folder)
            write_card(folder, card)
            refuse_private(folder)
            given: dict[str, Any] = {"private": private, "update": update, "revision": revision}
            return send(folder, name, message=f"{type(self).__name__} of {type(self).__module__}", **given)[1]


def _names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
