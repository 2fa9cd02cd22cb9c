"""Damaged or hostile model files are refused by name in one line, and nothing of them is kept."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from prune_exp.model import loading, sources
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings
from support.tokenizers import make_tokenizer


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def table(**entries: object) -> bytes:
    """A safetensors file with this table of contents and four bytes of data."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def one(start: int, end: int, *shape: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


HOSTILE_WEIGHTS = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "endless table": b"\xff" * 8 + b"{}",
    "table beyond the file": (1 << 20).to_bytes(8, "little") + b"{}",
    "data beyond the file": table(w=one(0, 1 << 40, 1 << 38)),
    "negative data": table(w=one(-4, 0, 1)),
    "shared data": table(a=one(0, 4, 1), b=one(0, 4, 1)),
    "size that overflows": table(w=one(0, 4, 1 << 62, 1 << 62)),
    "deep table": (1 << 17).to_bytes(8, "little") + b"[" * (1 << 17),
}


@pytest.mark.parametrize("kind", HOSTILE_WEIGHTS)
def test_weights_that_are_none_are_refused_before_they_are_read(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    (folder / "model.safetensors").write_bytes(HOSTILE_WEIGHTS[kind])
    with pytest.raises(SettingError, match=r"no whole safetensors file") as refused:
        sources.locate_model(ModelSettings(path=str(folder)), tmp_path / "cache")
    assert "model.safetensors" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_half_a_download_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SettingError, match=r"no whole safetensors file"):
        sources.locate_model(ModelSettings(path=str(folder)), tmp_path / "cache")


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    gone = next(name for name in sorted(weights) if name.endswith("down_proj.weight"))
    del weights[gone]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(SettingError, match=r"lacks 1 weights, among them .*down_proj"):
        loading.load_model(folder)


@pytest.mark.parametrize("text", ["", "{}", "\0", "[" * 100_000, '{"model": {"type": "Evil"}}'])
def test_a_tokenizer_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=r"tokenizer in .* cannot be read") as refused:
        loading.load_tokenizer(folder)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_is_missing_is_refused(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(SettingError, match=r"tokenizer in .* cannot be read"):
        loading.load_tokenizer(folder)


def test_a_whole_tokenizer_is_read(folder: Path) -> None:
    text = "what the damaged ones cannot say"
    assert loading.load_tokenizer(folder)(text)["input_ids"] == make_tokenizer()(text)["input_ids"]


HOSTILE_GGUF = {
    "empty": b"",
    "text": b"not a model",
    "head alone": b"GGUF",
    "counts without end": b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16,
    "of the future": b"GGUF" + (99).to_bytes(4, "little") + bytes(16),
    "nothing in it": b"GGUF" + (3).to_bytes(4, "little") + bytes(16),
}


@pytest.mark.parametrize("kind", HOSTILE_GGUF)
def test_a_package_whose_model_is_none_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    parts = [tmp_path / "model.gguf.part1", tmp_path / "model.gguf.part2"]
    parts[0].write_bytes(HOSTILE_GGUF[kind][:5])
    parts[1].write_bytes(HOSTILE_GGUF[kind][5:])
    monkeypatch.setattr(sources, "package_parts", lambda _package: parts)
    monkeypatch.setattr(sources, "version", lambda _package: "1")
    with pytest.raises(SettingError, match=r"model\.package=some holds no GGUF model") as refused:
        sources.locate_model(ModelSettings(package="some"), tmp_path / "cache")
    assert "\n" not in str(refused.value)
    left = [path.name for path in (tmp_path / "cache" / "models").iterdir()]
    assert all(name.endswith(".lock") for name in left)
