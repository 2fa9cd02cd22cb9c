"""What can be asked for, and how the rest is refused."""

import os
from pathlib import Path
from typing import Any

import pytest

from prune_exp.settings.command_schemas import ShipSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.shipping import targets
from prune_exp.shipping.ship import check_output, move_into_place, ship_model
from prune_exp.shipping.targets import choose_targets, file_name


def asked(*to: str, **more: Any) -> ShipSettings:
    return ShipSettings(to=list(to), **more)


def test_what_is_asked_for_twice_is_written_once() -> None:
    assert list(choose_targets(asked("hf", "hf").to)) == ["hf"]


@pytest.mark.parametrize("name", ["gguf", "onx", "hf:bf16", ""])
def test_an_unknown_target_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^to={name} is unknown; use one of hf, onnx, "):
        choose_targets(asked("hf", name).to)


def test_no_target_is_refused() -> None:
    with pytest.raises(SettingError, match="to is empty; give one or more of hf, onnx"):
        choose_targets(asked().to)


@pytest.mark.parametrize(
    ("name", "extra"), [("onnx", "onnx"), ("openvino", "openvino"), ("gguf:q4_k_m", "ship")]
)
def test_a_runtime_that_is_not_installed_is_refused_with_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda _module: None)
    with pytest.raises(SettingError, match=rf"^{name} needs .*prune-exp\[{extra}\]'$"):
        choose_targets(asked("hf", name).to)


def test_files_are_called_by_the_model_and_folders_by_the_target() -> None:
    assert file_name("hf", targets.TARGETS["hf"], "pruned-tiny") == "hf"
    gguf = file_name("gguf:q8_0", targets.TARGETS["gguf:q8_0"], "pruned-tiny")
    assert gguf == "pruned-tiny-q8_0.gguf"


def test_a_link_to_an_empty_folder_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    output = check_output(str(tmp_path / "link"))
    assert output == tmp_path / "real"
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").touch()
    move_into_place(tmp_path / "made", output)
    assert [one.name for one in (tmp_path / "link").iterdir()] == ["file"]


def test_an_output_that_cannot_be_replaced_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda _path: True)
    with pytest.raises(SettingError, match=r"top of a volume.*output=.*/out/shipped$"):
        check_output(str(tmp_path / "out"))
    monkeypatch.setattr(Path, "is_mount", lambda _path: False)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(SettingError, match=rf"{tmp_path} cannot be written to"):
        check_output(str(tmp_path / "deep" / "out"))


@pytest.mark.parametrize("kind", ["full", "file", "link"])
def test_an_output_that_holds_something_is_refused_and_left(kind: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    if kind == "full":
        output.mkdir()
        (output / "mine.txt").write_text("mine")
    elif kind == "file":
        output.write_text("mine")
    else:
        output.symlink_to(tmp_path / "nowhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"))
    with pytest.raises(SettingError, match=r"output=.* is not empty; give an empty folder"):
        ship_model(asked("hf", output=str(output), tracking=tracking))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
