"""A stored model becomes files beside each other, whole or not at all, and the store knows."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.machine.cache import folder_sha256
from prune_exp.settings.command_schemas import ShipSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.shipping import dense_pair
from prune_exp.shipping.comparison import ShippingError
from prune_exp.shipping.ship import ship_model, show_kl
from prune_exp.shipping.targets import TARGETS
from support.cli import command
from support.hub import hub_for
from support.store import Store

pytestmark = pytest.mark.slow


def ship(store: Store, output: Path, **wanted: Any) -> int:
    tracking = TrackingSettings(root=str(store.root / "mlruns"))
    given: dict[str, Any] = {"rounds": 0} | wanted
    return ship_model(ShipSettings(output=str(output), tracking=tracking, **given))


def test_the_candidate_is_shipped_and_the_store_knows(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "out"
    assert ship(store, output) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        *("LICENSE.txt", "README.md", "hf", "hf.json")
    ]
    facts = json.loads((output / "hf.json").read_text())
    assert facts["kl_nats"] < 1e-6
    assert facts["sha256"] == folder_sha256(output / "hf")
    version = store.client.get_model_version_by_alias("pruned-tiny", "candidate")
    assert version.tags["shipped.hf"] == facts["sha256"]
    run = store.client.get_run(version.run_id)
    assert run.data.metrics["shipped/hf/kl_nats"] == pytest.approx(facts["kl_nats"])
    ratio = facts["perplexity_ratio_to_checkpoint"] * run.data.metrics["perplexity_ratio"]
    assert facts["perplexity_ratio"] == pytest.approx(ratio)
    assert run.info.status == "FINISHED"
    names = [one.path for one in store.client.list_artifacts(version.run_id, "shipped")]
    assert names == ["shipped/hf.json"]
    assert f"pruned-tiny version {version.version}:\n  hf " in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    assert facts["beside_dense"] is None


@pytest.mark.parametrize("max_kl", [1e-3, -1.0])
def test_the_hub_gets_what_passed_and_nothing_else(
    max_kl: float, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_for(monkeypatch) as hub:
        code = ship(store, tmp_path / "out", to=["hub:someone/tiny"], max_kl=max_kl)
        kept = max_kl > 0
        assert code == (0 if kept else 1)
        assert ("model.safetensors" in hub.files) == kept
        assert bool(hub.created) == kept


def test_a_dry_run_pushes_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_for(monkeypatch) as hub:
        assert ship(store, tmp_path / "out", to=["hub:someone/tiny"], dry_run=True) == 0
        assert not hub.files
        assert not hub.created
        assert not (tmp_path / "out").exists()


def test_a_file_is_timed_in_turns_with_the_dense_models_of_its_kind(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ship(store, tmp_path / "out", rounds=2) == 0
    facts = json.loads((tmp_path / "out" / "hf.json").read_text())
    pair = facts["beside_dense"]
    assert pair["dense_size_mib"] > facts["size_mib"]
    rates = zip(pair["tokens_per_s"], pair["dense_tokens_per_s"], strict=True)
    gains = [own / dense for own, dense in rates]
    assert len(gains) == 2
    speed = pair["text_speedup"]
    assert speed["value"] == pytest.approx((gains[0] * gains[1]) ** 0.5)
    assert speed["low"] < speed["value"] < speed["high"]
    version = store.client.get_model_version_by_alias("pruned-tiny", "candidate")
    metrics = store.client.get_run(version.run_id).data.metrics
    assert metrics["shipped/hf/text_speedup"] == pytest.approx(speed["value"])
    assert metrics["shipped/hf/memory_ratio"] == pytest.approx(pair["memory_ratio"]["value"])
    assert "the same text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "error", "stream"),
    [
        ("find_dense_model", SettingError("it is not here"), "err"),
        ("time_files", ShippingError("hf cannot be timed: its process was killed"), "out"),
    ],
)
def test_without_a_dense_model_to_time_files_are_shipped_all_the_same(
    step: str,
    error: Exception,
    stream: str,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(dense_pair, step, fail)
    assert ship(store, tmp_path / "out", rounds=2) == 0
    said = getattr(capsys.readouterr(), stream)
    assert f"not timed beside the dense model: {error}" in said
    assert json.loads((tmp_path / "out" / "hf.json").read_text())["beside_dense"] is None


def test_one_round_gives_no_interval(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="rounds=1 gives no interval"):
        ship_model(ShipSettings(output=str(tmp_path / "out"), rounds=1))


def test_the_champion_goes_before_the_candidate(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = store.client.get_model_version_by_alias("pruned-tiny", "candidate").version
    other = "2" if newest == "1" else "1"
    if len(store.client.search_model_versions("name = 'pruned-tiny'")) == 1:
        assert store.promote(run_id=store.run_id("0.2"), gates=["integrity"]) == 0
        other = store.alias("champion") or ""
    else:
        store.client.set_registered_model_alias("pruned-tiny", "champion", other)
    assert ship(store, tmp_path / "out", dry_run=True) == 0
    said = capsys.readouterr().out
    assert f"pruned-tiny version {other}:" in said
    assert "Dry run: nothing was written." in said
    assert not (tmp_path / "out").exists()


def test_without_an_alias_a_version_is_asked_for(store: Store, tmp_path: Path) -> None:
    store.client.delete_registered_model_alias("pruned-tiny", "candidate")
    with pytest.raises(SettingError, match=r"neither a champion nor a candidate; .*version=NUMBER"):
        ship(store, tmp_path / "out")
    assert ship(store, tmp_path / "out", version=1, dry_run=True) == 0
    assert ship(store, tmp_path / "out", run_id=store.run_id("0.2"), dry_run=True) == 0
    assert not list(tmp_path.glob("*out*"))


def test_changed_files_are_not_shipped(store: Store, tmp_path: Path) -> None:
    for sparsity in ("0.2", "0.4"):
        card = store.files(sparsity) / "README.md"
        card.write_text("# Another model\n")
    with pytest.raises(SettingError, match="is not used: integrity: "):
        ship(store, tmp_path / "out", version=1)
    assert not list(tmp_path.glob("*out*"))


def test_what_fails_its_check_is_not_kept(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert ship(store, tmp_path / "out", max_kl=-1.0) == 1
    said = capsys.readouterr().out
    assert re.search(r"hf +not kept: it diverges from the checkpoint by", said)
    assert "Nothing is kept." in said
    assert not list((tmp_path / "out").iterdir())
    version = store.client.get_model_version_by_alias("pruned-tiny", "candidate")
    assert "shipped.hf" not in version.tags


@pytest.mark.parametrize("error", [MemoryError("no room"), AssertionError(), OSError(28, "full")])
def test_a_target_that_cannot_be_written_costs_no_other(
    error: Exception,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def break_down(*_args: object) -> None:
        raise error

    broken = replace(TARGETS["hf"], write=break_down)
    monkeypatch.setitem(TARGETS, "gguf:q8_0", broken)
    assert ship(store, tmp_path / "out", to=["gguf:q8_0", "hf"]) == 1
    assert f"not kept: {type(error).__name__}" in capsys.readouterr().out
    assert {"hf", "hf.json"} <= {one.name for one in (tmp_path / "out").iterdir()}


def test_a_text_of_ones_own_and_the_command(
    tracked: Store, text_file: Path, tmp_path: Path
) -> None:
    root = f"tracking.root={tracked.root / 'mlruns'}"
    done = command(
        *("version=1", "to=[hf]", "rounds=2", "dry_run=true", f"output={tmp_path / 'out'}", root),
        f"text={text_file}",
        module="prune_exp.ship",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Dry run: nothing was written." in done.stdout
    done = command("to=[hf]", "text=none", root, "output=o", module="prune_exp.ship", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("text=none is not a file; give UTF-8 text")
    done = command("to=[gguf]", root, "output=o", module="prune_exp.ship", cwd=tmp_path)
    assert "prune_exp.ship: error: to=gguf is unknown; use one of hf, " in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_graph_is_shipped(kind: str, store: Store, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(kind, kind))
    assert ship(store, tmp_path / "out", to=[kind]) == 0
    facts = json.loads((tmp_path / "out" / f"{kind}.json").read_text())
    assert facts["kl_nats"] < 1e-4
    assert facts["same_tokens"]
    assert facts["same_texts"] == 5
    assert facts["load_s"] > 0
    assert facts["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    ("nats", "shown"), [(-4.8e-9, "below 1e-07"), (0.0, "below 1e-07"), (0.0043, "0.0043")]
)
def test_a_divergence_is_never_below_zero(nats: float, shown: str) -> None:
    assert show_kl(nats) == shown
