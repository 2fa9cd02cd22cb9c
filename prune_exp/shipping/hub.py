"""What was shipped, pushed to the Hugging Face hub: the checkpoint and its card, the files beside.

The token is huggingface_hub's own (`hf auth login`, or HF_TOKEN); it is read by that library alone
and hidden wherever its words are shown.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prune_exp.machine.display import last_words
from prune_exp.settings.errors import SettingError

HUB = "hub:"
CHECKPOINT = "hf"
"""The folder whose files lie at the top of the repository."""


def repository_of(name: str) -> str:
    """USER/NAME of a target `hub:USER/NAME`.

    Raises:
        SettingError: it is no name of a repository.
    """
    from huggingface_hub.utils import validate_repo_id

    found = name.removeprefix(HUB)
    try:
        validate_repo_id(found)
    except ValueError:
        found = ""
    if found.count("/") != 1:
        raise SettingError(f"to={name} names no repository; give hub:USER/NAME")
    return found


def check_login(repository: str, *, private: bool) -> None:
    """Raises SettingError unless the token that is there may write, and to a repository that is as
    private as it is wanted."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise SettingError(
            f"to=hub:{repository} needs a token of the hub; type hf auth login, or set HF_TOKEN"
        )
    api = HfApi()
    try:
        known: dict[str, Any] = api.whoami()
        is_public = _is_public(api, repository)
    except Exception as error:  # each cause has a kind of its own: no network, no such token
        raise SettingError(
            f"to=hub:{repository}: the hub did not accept the token ({_hide_token(error)}); type"
            " hf auth login, or set HF_TOKEN"
        ) from None
    role = known.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise SettingError(
            f"to=hub:{repository}: the token may read only; give one that may write to HF_TOKEN"
        )
    if private and is_public:
        raise SettingError(
            f"to=hub:{repository} is public, and private=true asks for a private one; type"
            " private=false where the world may have the model, or give another name"
        )


def _is_public(api: Any, repository: str) -> bool:
    """Whether the repository is there and anybody may read it."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repository).private is False
    except RepositoryNotFoundError:
        return False


def list_files(output: Path) -> Iterator[tuple[str, Path]]:
    """Where every file of the output goes in a repository, and the file."""
    for path in sorted(output.rglob("*")):
        place = path.relative_to(output)
        if not path.is_file():
            continue
        if place.parts[0] == CHECKPOINT:
            yield place.relative_to(CHECKPOINT).as_posix(), path
        elif not (output / CHECKPOINT / place).exists():
            yield place.as_posix(), path


def push_files(output: Path, repository: str, *, private: bool, message: str) -> str:
    """Makes the repository where it is not there and commits all files; returns the address.

    Raises:
        SettingError: the hub refused.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    adds = [CommitOperationAdd(place, str(path)) for place, path in list_files(output)]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        made: Any = api.create_commit(repository, adds, commit_message=message)
    except Exception as error:
        raise SettingError(
            f"to=hub:{repository}: the hub refused ({_hide_token(error)}); {output} holds all files"
        ) from None
    return str(made.commit_url)


def _hide_token(error: Exception) -> str:
    """An error's words without any token."""
    from huggingface_hub import get_token

    words = last_words(error)
    for secret in (get_token(), os.environ.get("HF_TOKEN")):
        if secret:
            words = words.replace(secret, "***")
    return words
