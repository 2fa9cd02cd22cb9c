"""Signatures over a stored model's files, in the OpenSSF model signing format."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings

if TYPE_CHECKING:
    from model_signing.signing import Config

SIGNATURE = "model.sig"
"""The signature's file, beside the folder that it is about."""
PASSWORD = "PRUNE_EXP_SIGNING_PASSWORD"
"""Environment variable with the password of an encrypted private key."""
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
NEW_PUBLIC_KEY = "openssl ec -in key.pem -pubout -out key.pub"


def check_signing_key(tracking: TrackingSettings) -> None:
    """Says before a sweep, where it signs, what would fail only when its model is stored.

    Raises:
        SettingError: the package is missing, or the key cannot be used.
    """
    if tracking.signing_key is not None and tracking.log_models != "none":
        _make_signer(tracking.signing_key)


def sign_folder(folder: Path, private_key: str, signature: Path) -> None:
    """Writes a signature over the names and the bytes of all files of a folder.

    Raises:
        SettingError: the package is missing, or the key cannot be used.
    """
    _make_signer(private_key).sign(folder, signature)


def describe_fault(folder: Path, signature: Path, public_key: str) -> str | None:
    """Why a folder is not what the holder of the key signed; None when it is.

    Raises:
        SettingError: the package is missing, or the key cannot be used.
    """
    verifying = _import_package("verifying")
    config = _with_key(
        f"limits.public_key={public_key}",
        f"one made by {NEW_PUBLIC_KEY}",
        lambda: verifying.Config().use_elliptic_key_verifier(public_key=public_key),
    )
    if not signature.is_file():
        return "it is not signed"
    try:
        config.verify(folder, signature)
    except Exception as error:  # a hostile file may bring up anything in a parser
        if str(error).startswith("Signature mismatch"):
            return "its files are not those that were signed"
        if str(error).startswith("Key mismatch"):
            return "it was signed with another key"
        return f"its signature is no valid one ({type(error).__name__})"
    return None


def _make_signer(private_key: str) -> "Config":
    signing = _import_package("signing")
    password = os.environ.get(PASSWORD, "").encode() or None
    return _with_key(
        f"tracking.signing_key={private_key}",
        f"one made by {NEW_KEY}, its password, if any, in ${PASSWORD}",
        lambda: signing.Config().use_elliptic_key_signer(
            private_key=private_key, password=password
        ),
    )


def _import_package(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"model_signing.{module}")
    except ImportError as error:
        raise SettingError(
            f"signatures need a package that is not here ({error}); install prune_exp[signing]"
        ) from None


def _with_key(given: str, wanted: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except OSError as error:
        raise SettingError(f"{given} cannot be read ({error.strerror}); give {wanted}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise SettingError(
            f"{given} is no key that signs models ({str(error).split('. ')[0]}); give {wanted}"
        ) from None
