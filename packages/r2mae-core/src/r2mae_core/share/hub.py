"""The hub of Hugging Face: one folder sent, one folder fetched, and each failure in one line."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import UserError

_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""Packages whose errors mean that a server could not be reached; which one depends on huggingface_hub's version."""


def hub_library() -> Any:
    """Return the module `huggingface_hub`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing; pip install 'r2mae-core[hub]'") from None
    return huggingface_hub


def check_name(name: str) -> None:
    """Refuse a name that no repository can have.

    Raises:
        UserError: it has not the form OWNER/NAME.
    """
    part = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9_])?"
    if not re.fullmatch(rf"({part}/)?{part}", name) or "--" in name or ".." in name or name.endswith(".git"):
        raise UserError(f"{name!r} is no name on the hub: OWNER/NAME of letters, digits, '-', '_' and '.' is needed")


def check_licence(license: str | None, license_name: str | None = None) -> str:
    """Return the licence that a card is to name.

    Raises:
        UserError: none was given, or it is not written as the hub writes licences.
    """
    if not license:
        raise UserError("--license is needed: under which licence others may use the weights, such as mit or cc-by-4.0")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(f"--license {license!r}: write it as the hub does, in small letters, such as apache-2.0")
    if (license == "other") != bool(license_name):
        raise UserError("--license other and --license_name go together: the second says which licence it is")
    return license


def send(
    folder: Path,
    name: str,
    *,
    message: str,
    private: bool = False,
    update: bool = False,
    revision: str | None = None,
) -> tuple[str, str]:
    """Send a folder as the whole content of a model's repository.

    Args:
        folder: what is sent; nothing else is.
        name: OWNER/NAME, or NAME for one's own account.
        message: of the commit.
        private: of a new repository.
        update: it exists; files that the folder lacks are removed from it, older revisions stay as they are.
        revision: branch, made if it is not there; None: main.

    Returns:
        the repository's full name, and the new commit.

    Raises:
        UserError: there is no token or no network, the name exists, or the hub refuses.
    """
    hub = hub_library()
    check_name(name)
    if _is_offline(hub):
        raise UserError("HF_HUB_OFFLINE is set, so nothing is sent; unset it, or look at the folder with --dry_run")
    if not hub.get_token():
        raise UserError("no token of the hub: `hf auth login`, or HF_TOKEN with one that may write; nothing was sent")
    api = hub.HfApi()
    with hub_errors(f"cannot push to {name}"):
        owner = name if "/" in name else f"{api.whoami()['name']}/{name}"
        exists = _exists(hub, api, owner)
        if exists and not update:
            raise UserError(f"{owner} exists already; give --update to put this model there, or another name")
        if update and not exists:
            raise UserError(f"{owner} is not on the hub, or not yours to see; leave out --update to make it")
        if not exists:
            api.create_repo(owner, private=private)
    with hub_errors(
        f"cannot push to {owner}" if exists else f"made {owner}, but cannot fill it; try again with --update"
    ):
        if revision is not None and revision != "main":
            api.create_branch(owner, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=owner, folder_path=folder, commit_message=message, revision=revision, delete_patterns="*"
        )
    return owner, commit.oid


def fetch(name: str, revision: str | None = None, patterns: Sequence[str] | None = None) -> Path:
    """Return the folder of a repository's files, downloaded if the cache has them not.

    Args:
        name: OWNER/NAME.
        revision: branch, tag or commit; None: main.
        patterns: of the files that are wanted; None: all.

    Raises:
        UserError: there is no such repository or revision, or it cannot be reached.
    """
    hub = hub_library()
    check_name(name)
    what = name if revision is None else f"{name} at {revision}"
    with hub_errors(f"cannot fetch {what}"):
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=patterns))


def folder_or_fetched(place: str | Path, revision: str | None = None, patterns: Sequence[str] | None = None) -> Path:
    """Return a folder of this machine as it is, or that of a name on the hub.

    Raises:
        UserError: a folder has no revisions; and what `fetch` refuses.
    """
    if not Path(place).is_dir():
        if isinstance(place, Path) or str(place).startswith((".", "/", "~")):
            raise UserError(f"there is no folder {place}")
        return fetch(place, revision, patterns)
    if revision is not None:
        raise UserError(f"{place} is a folder, which has no revisions; leave out revision={revision!r}")
    return Path(place)


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Answer what huggingface_hub raises with one line.

    Args:
        what: failed, for the message.

    Raises:
        UserError: instead.
    """
    hub = hub_library()
    errors = hub.errors
    try:
        yield
    except UserError:
        raise
    except errors.RevisionNotFoundError:
        raise UserError(f"{what}: the repository has no such revision") from None
    except errors.GatedRepoError:
        raise UserError(f"{what}: its owner must grant access first; ask on its page") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{what}: the hub has no such repository, or does not show it to you (HF_TOKEN)") from None
    except errors.LocalEntryNotFoundError as error:
        unseen = "HF_HUB_OFFLINE is set and" if _is_offline(hub) else "the hub cannot be reached, and"
        raise UserError(f"{what}: {unseen} the cache has it not") from (error if _debug() else None)
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{what}: HF_HUB_OFFLINE is set") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        said = (getattr(error, "server_message", None) or str(error)).strip().splitlines() or [""]
        hint = "; is the token valid, and may it write there?" if status in (401, 403) else ""
        raise UserError(f"{what}: the hub answered {status}: {said[0][:300]}{hint}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _NETWORK:
            raise
        raise UserError(f"{what}: {_endpoint(hub)} cannot be reached ({type(error).__name__})") from None


def _exists(hub: Any, api: Any, name: str) -> bool:
    try:
        api.model_info(name)
    except hub.errors.RepositoryNotFoundError:
        return False
    return True


def _is_offline(hub: Any) -> bool:
    return bool(hub.constants.HF_HUB_OFFLINE)


def _endpoint(hub: Any) -> str:
    return str(hub.constants.ENDPOINT)


def _debug() -> bool:
    return os.environ.get("R2MAE_DEBUG", "") not in ("", "0")
