"""Passwords are hidden, and nothing else is."""

import pytest

from prune_exp.settings.redaction import redact, redact_override
from support.hostile import PASSWORD


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{PASSWORD}@host/db",
        f"postgresql://me:at@{PASSWORD}@host/db",
        f"postgresql://me:slash/{PASSWORD}@host/db",
        f"http://host/api?user=me&password={PASSWORD}&x=1",
        f"http://host/api?access_token={PASSWORD}",
        f"could not open ['http://me:{PASSWORD}@host:1/']",
    ],
)
def test_passwords_in_uris_are_hidden(text: str) -> None:
    assert PASSWORD not in redact(text)
    assert "host" in redact(text)


@pytest.mark.parametrize(
    "text", ["models:/pruned@candidate", "data.context_tokens=32", "sqlite:////a/b.db", "a@b"]
)
def test_what_is_no_password_stays(text: str) -> None:
    assert redact(text) == redact_override(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f"db.password={PASSWORD}",
        f"+api_key={PASSWORD}",
        f"hub.token={PASSWORD}",
        f"db={{user: me, passwd: {PASSWORD}}}",
        f"uri=http://me:{PASSWORD}@host",
    ],
)
def test_secret_overrides_are_hidden(text: str) -> None:
    assert PASSWORD not in redact_override(text)
    assert redact_override(text).startswith(text.partition("=")[0])
