"""What is pushed to the hub, and that no token is ever shown."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prune_exp.settings.command_schemas import ShipSettings
from prune_exp.settings.errors import SettingError
from prune_exp.shipping.hub import check_login, list_files, push_files, repository_of
from prune_exp.shipping.targets import choose_repositories, choose_targets
from support.hub import TOKEN, Hub, hub_for


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in for the hub."""
    with hub_for(monkeypatch) as served:
        yield served


def fill(output: Path) -> Path:
    """What a shipment of a checkpoint and a GGUF file leaves."""
    (output / "hf").mkdir(parents=True)
    (output / "onnx").mkdir()
    for name, text in {
        "README.md": "# Card\n",
        "hf.json": "{}",
        "hf/README.md": "# Card\n",
        "hf/config.json": "{}",
        "hf/model.safetensors": "weights",
        "onnx/config.json": "{}",
        "tiny-q8_0.gguf": "gguf",
        "tiny-q8_0.gguf.json": "{}",
    }.items():
        (output / name).write_text(text)
    return output


def test_the_checkpoint_lies_at_the_top_and_the_rest_beside_it(tmp_path: Path) -> None:
    places = [place for place, _ in list_files(fill(tmp_path / "out"))]
    assert sorted(places) == [
        *("README.md", "config.json", "hf.json", "model.safetensors", "onnx/config.json"),
        *("tiny-q8_0.gguf", "tiny-q8_0.gguf.json"),
    ]


@pytest.mark.parametrize("private", [True, False])
def test_all_files_arrive(private: bool, hub: Hub, tmp_path: Path) -> None:
    output = fill(tmp_path / "out")
    check_login("someone/tiny", private=private)
    address = push_files(output, "someone/tiny", private=private, message="tiny version 1")
    assert address == f"{hub.address}/someone/tiny/commit/1"
    assert hub.files == {place: path.read_bytes() for place, path in list_files(output)}
    (made,) = hub.created
    assert made["name"] == "tiny"
    seen = "private" if made.get("private") else made.get("visibility", "public")
    assert seen == ("private" if private else "public")
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_refusal_is_said_without_the_token(hub: Hub) -> None:
    hub.refuses = True
    with pytest.raises(SettingError, match="did not accept the token") as caught:
        check_login("someone/tiny", private=True)
    assert TOKEN not in str(caught.value)


def test_without_a_token_it_is_said_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(SettingError, match="needs a token of the hub; type hf auth login"):
        check_login("someone/tiny", private=True)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("is_private", [True, False, None])
def test_a_public_repository_gets_nothing_that_is_to_be_private(
    private: bool, is_private: bool | None, hub: Hub
) -> None:
    hub.is_private = is_private
    if private and is_private is False:
        with pytest.raises(SettingError, match="is public, and private=true"):
            check_login("someone/tiny", private=private)
    else:
        check_login("someone/tiny", private=private)


def test_a_token_that_may_only_read_is_refused_before_anything_is_made(hub: Hub) -> None:
    hub.role = "read"
    with pytest.raises(SettingError, match="the token may read only"):
        check_login("someone/tiny", private=True)


@pytest.mark.parametrize("name", ["hub:", "hub:tiny", "hub:a/b/c", "hub:a/..", "hub:a b/c"])
def test_what_names_no_repository_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="names no repository; give hub:USER/NAME"):
        repository_of(name)


def test_the_hub_is_given_the_checkpoint(tmp_path: Path) -> None:
    asked: Any = ShipSettings(to=["hub:someone/tiny", "hub:someone/tiny"], output=str(tmp_path))
    assert list(choose_targets(asked.to)) == ["hf"]
    assert choose_repositories(asked) == ["someone/tiny"]
