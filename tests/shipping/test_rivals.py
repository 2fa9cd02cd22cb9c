"""Pruned models beside quantized dense ones: the files' own weights, and honest verdicts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prune_exp.model import loading
from prune_exp.settings.command_schemas import RivalSettings
from prune_exp.settings.errors import SettingError
from prune_exp.shipping import rivals as module
from prune_exp.shipping.gguf_file import write_gguf
from prune_exp.shipping.gguf_model import tensors_of
from prune_exp.shipping.quantized_weights import quantize_weights
from prune_exp.shipping.rival_table import (
    Rival,
    Rivals,
    _choose_markers,
    list_verdicts,
    write_rivals,
)
from prune_exp.text.corpus import Domain, TokenBlocks
from support.shipping import save_tiny

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 288, "head_dim": 64}


@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_weights_are_those_that_the_file_gives_back(
    family: str, kind: str, tmp_path: Path
) -> None:
    import gguf

    folder = save_tiny(tmp_path / "model", family, **(WIDE if family == "llama" else {}))
    write_gguf(folder, tmp_path / "file.gguf", kind, "tiny")
    model = loading.load_model(folder)
    with torch.no_grad():
        quantize_weights(model, kind)
    ours = dict(tensors_of(model))
    read: list[Any] = gguf.GGUFReader(tmp_path / "file.gguf").tensors
    assert {one.name for one in read} == ours.keys()
    for one in read:
        theirs = gguf.quants.dequantize(one.data, one.tensor_type)
        assert np.array_equal(theirs.reshape(ours[one.name].shape), ours[one.name]), one.name


DOCUMENTS = 20
TOKENS = 10


def text() -> TokenBlocks:
    """Blocks of a document each, half of them of a kind of text that need not be kept."""
    halves = [("kept", True), ("other", False)]
    return TokenBlocks(
        ids=torch.zeros(DOCUMENTS, TOKENS + 1, dtype=torch.long),
        bytes_scored=DOCUMENTS * TOKENS,
        digest="d",
        source="s",
        domains=tuple(
            Domain(
                name=name, blocks=DOCUMENTS // 2, bytes_scored=DOCUMENTS * TOKENS // 2, kept=kept
            )
            for name, kept in halves
        ),
    )


def rival(kind: str, size_mib: float, loss: float, rate: float, **more: Any) -> Rival:
    """A loss for each token that differs a little from document to document, and likewise rates."""
    wobble = torch.linspace(-0.01, 0.01, DOCUMENTS, dtype=torch.float64)
    given: dict[str, Any] = {
        "model": "dense" if "is_dense" not in more else "pruned",
        "kind": kind,
        "is_dense": True,
        "size_mib": size_mib,
        "peak_memory_mib": 2 * size_mib,
        "tokens_per_s": [rate * (1 + 0.01 * turn) for turn in range(6)],
        "losses": TOKENS * (loss + wobble * size_mib / 100),
        "own_tokens": torch.full((DOCUMENTS,), TOKENS),
    }
    return Rival(**given | more)


def rivals(*those: Rival) -> Rivals:
    return Rivals(text=text(), rivals=[*those], runtime="a runtime")


DENSE = (rival("bf16", 270, 2.0, 10), rival("q8_0", 140, 2.01, 18), rival("q4_k_m", 100, 2.3, 25))


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (rival("q8_0", 110, 2.1, 30, is_dense=False), ["better and faster than every dense file"]),
        (rival("q8_0", 150, 2.1, 30, is_dense=False), ["dense q8_0 (140 MiB)", "worse", "faster"]),
        (rival("q8_0", 110, 2.6, 20, is_dense=False), ["dense q4_k_m", "worse", "slower"]),
        (
            rival("q4_k_m", 90, 9.0, 20, is_dense=False),
            ["smaller than every dense file", "Beside dense q4_k_m (100 MiB)", "worse", "slower"],
        ),
        (rival("q8_0", 110, 2.1, 25, is_dense=False), ["better", "as fast as can be told"]),
    ],
)
def test_what_is_said_is_what_the_intervals_show(one: Rival, words: list[str]) -> None:
    (said,) = list_verdicts(rivals(*DENSE, one))
    for word in words:
        assert word in said


def test_more_tokens_for_the_same_text_are_a_slower_model() -> None:
    same = rival("q8_0", 110, 2.1, 25, is_dense=False)
    more = rival(
        "q8_0", 110, 2.1, 25, is_dense=False, own_tokens=torch.full((DOCUMENTS,), 2 * TOKENS)
    )
    found = rivals(*DENSE, same, more)
    assert found.speedup(same, DENSE[2]).value == pytest.approx(1)
    assert found.speedup(more, DENSE[2]).value == pytest.approx(0.5)


def test_every_model_has_a_marker_of_its_own() -> None:
    small = [rival("q8_0", 90, 2.1, 30, model=name, is_dense=False) for name in ("a", "b")]
    assert _choose_markers(rivals(*DENSE, *small)) == {"dense": "s", "a": "o", "b": "^"}


def test_the_table_has_every_file_and_the_best_up_to_each_size(tmp_path: Path) -> None:
    one = rival("q8_0", 110, 2.1, 30, is_dense=False)
    write_rivals(rivals(*DENSE, one), [60.0, 100.0, 120.0], tmp_path)
    page = (tmp_path / "rivals.md").read_text(encoding="utf-8")
    assert "| dense bf16 | 270.0 |" in page
    assert "1.000 [1.000, 1.000] | 1.00 [1.00, 1.00]" in page
    assert "Up to 60 MiB there is no file." in page
    assert "Up to 100 MiB the best is dense q4_k_m, the fastest dense q4_k_m." in page
    assert "Up to 120 MiB the best is pruned q8_0, the fastest pruned q8_0." in page
    kept = json.loads((tmp_path / "rivals.json").read_text(encoding="utf-8"))
    (row,) = [row for row in kept["rivals"] if row["model"] == "pruned"]
    assert row["text_speedup"] == pytest.approx(3)
    assert row["bits_per_byte_by_domain"].keys() == {"kept", "other"}
    assert row["bits_per_byte"] == pytest.approx(row["bits_per_byte_by_domain"]["kept"])
    assert (tmp_path / "rivals.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        ({"kinds": ["q3"]}, "kinds=q3 is unknown"),
        ({"kinds": []}, "kinds is empty"),
        ({"rounds": 1}, "rounds=1 is too small"),
        ({"threads": 0}, "threads=0 is too small"),
        ({"new_tokens": 1}, "new_tokens=1 is too small"),
    ],
)
def test_bad_input_is_refused_before_anything_is_fetched(
    wanted: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=word):
        module.compare_rivals(RivalSettings(output=str(tmp_path / "out"), **wanted))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_stored_models_are_compared_with_their_dense_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = save_tiny(tmp_path / "dense")
    pruned = save_tiny(tmp_path / "pruned", intermediate_size=32)
    figures = {"params_pruned_pct": 12.0}
    trial = SimpleNamespace(metrics=figures, params={"model.package": "a"}, run_id="f" * 32)
    model = SimpleNamespace(name="tiny", version="3", trial=trial, folder=pruned)
    ids = torch.randint(1, 300, (14, 20), generator=torch.Generator().manual_seed(1))
    judged = TokenBlocks(ids=ids, bytes_scored=ids[:, 1:].numel(), digest="d", source="s")
    logged: list[str] = []
    source = SimpleNamespace(digest="d", folder=dense)
    monkeypatch.setattr(module, "fetch_shipped", lambda *_: model)
    monkeypatch.setattr(module, "find_dense_model", lambda *_: source)
    monkeypatch.setattr(module, "_heldout_text", lambda *_: judged)
    monkeypatch.setattr(module, "log_file", lambda _, path, __: logged.append(path.name))
    asked = RivalSettings(
        output=str(tmp_path / "out"), kinds=["f32", "q8_0"], rounds=2, new_tokens=4
    )
    assert module.compare_rivals(asked) == 0
    assert logged == ["rivals.json", "rivals.md", "rivals.png"]
    kept = json.loads((tmp_path / "out" / "rivals.json").read_text(encoding="utf-8"))
    names = [(row["model"], row["kind"]) for row in kept["rivals"]]
    pruned_name = "tiny version 3, 12.0 % less"
    assert names == [(name, kind) for name in ("dense", pruned_name) for kind in ("f32", "q8_0")]
    assert kept["rivals"][0]["perplexity_ratio"] == 1.0
    assert kept["reference"] == "dense f32"
    assert "read from a file whose matrices were quantized already" in kept["notes"][-1]
    page = (tmp_path / "out" / "rivals.md").read_text(encoding="utf-8")
    assert all(note in page for note in kept["notes"])
    assert f"{pruned_name} f32" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "out", "pruned"]
