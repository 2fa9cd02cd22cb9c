"""A cache that cannot be written names the setting that moves it."""

import threading
import time
from pathlib import Path

import pytest

from prune_exp.machine.cache import cached_folder, keep_note
from prune_exp.machine.files import read_text
from prune_exp.settings.errors import SettingError
from prune_exp.settings.explanation import explain_error

NAMED = r"cannot be written .*cache_dir=DIR or PRUNE_EXP_CACHE=DIR"


@pytest.mark.parametrize("place", ["/proc/nowhere/cache", "a file"])
def test_a_cache_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("mine", encoding="utf-8")
    cache = tmp_path / place
    with pytest.raises(SettingError, match=NAMED) as refused:
        cached_folder(cache / "models" / "m", lambda _: None)
    assert str(cache) in str(refused.value)
    with pytest.raises(SettingError, match=NAMED):
        keep_note(cache / "digests" / "d", b"")
    assert (tmp_path / "a file").read_text(encoding="utf-8") == "mine"


def test_what_was_cached_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "x").write_text("x", encoding="utf-8")

    target = tmp_path / "cache" / "m"
    assert cached_folder(target, fill) == target
    (tmp_path / "cache" / "m.lock").unlink(missing_ok=True)
    assert cached_folder(target, lambda _: pytest.fail("built again")) == target
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["m"]


def test_an_error_of_the_builders_own_stays_what_it_is(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise FileNotFoundError(2, "No such file", str(folder))

    with pytest.raises(FileNotFoundError):
        cached_folder(tmp_path / "m", fail)
    assert all(one.name.endswith(".lock") for one in tmp_path.iterdir())


def test_a_file_that_is_no_utf8_is_named_with_its_setting(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("the café by the river".encode("cp1252"))
    with pytest.raises(SettingError, match=r"some\.path=.*prompts\.txt is not UTF-8 .*byte 7"):
        read_text(path, setting="some.path")
    with pytest.raises(SettingError, match=r"some\.path=.* cannot be read \(Is a directory\)"):
        read_text(tmp_path, setting="some.path")


def test_a_file_that_cannot_be_read_is_not_called_unwritable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    path.touch()
    error = PermissionError(13, "Permission denied", str(path))
    assert "tracking.root" in explain_error(error)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert explain_error(error) == f"{path} cannot be read (Permission denied); make it readable"


def test_a_build_that_breaks_off_leaves_nothing_and_is_built_again(tmp_path: Path) -> None:
    def break_off(folder: Path) -> None:
        (folder / "half").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    target = tmp_path / "cache" / "m"
    with pytest.raises(KeyboardInterrupt):
        cached_folder(target, break_off)
    assert [one.name for one in target.parent.iterdir() if one.is_dir()] == []
    cached_folder(target, lambda folder: (folder / "whole").touch())
    assert [one.name for one in target.iterdir()] == ["whole"]


def test_what_several_want_at_once_is_built_once(tmp_path: Path) -> None:
    built: list[str] = []
    both = threading.Barrier(2)

    def fill(folder: Path) -> None:
        built.append(folder.name)
        time.sleep(0.05)  # long enough for the other to ask

    def ask() -> None:
        both.wait(10)
        cached_folder(tmp_path / "m", fill)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(built) == 1
