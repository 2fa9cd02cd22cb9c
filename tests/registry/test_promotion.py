"""Gates, aliases and rebuilding, on a real store."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from prune_exp.settings.errors import SettingError
from support.keys import write_keys
from support.models import make_tiny
from support.store import Store

pytestmark = pytest.mark.slow

FILES = ["integrity", "reload"]


def worse_copy(store: Store, sparsity: str) -> None:
    """Swaps a stored model's weights for other ones of the same shape."""
    from safetensors.torch import load_file, save_file

    file = store.files(sparsity) / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "down_proj" in name)
    weights[name] = weights[name] + 0.5
    save_file(weights, file, metadata={"format": "pt"})


def test_the_best_run_of_the_sweep_is_promoted(store: Store) -> None:
    assert store.promote(clocks=True) == 0
    version = store.alias("champion")
    assert version is not None
    assert store.alias("previous") is None
    tags = store.tags(version)
    assert tags["promotion"] == "promoted"
    for gate in ("integrity", "reload", "speedup", "memory", "quality", "champion"):
        verdict = json.loads(tags[f"gate.{gate}"])
        assert verdict["passed"]
        assert verdict["sentence"]
    figures = json.loads(tags["gate.quality"])["figures"]
    assert figures["blocks"] == 20
    assert figures["documents"] >= 12
    for gate in ("speedup", "memory"):
        assert json.loads(tags[f"gate.{gate}"])["sentence"].startswith("measured again, it is")
    assert figures["perplexity_ratio_low"] < figures["perplexity_ratio"]
    assert json.loads(tags["gate.reload"])["figures"]["max_logit_difference"] == 0


def test_quality_is_what_the_models_say_on_text_no_trial_used(store: Store) -> None:
    import math

    import torch

    from prune_exp.model import loading
    from prune_exp.settings.params import restore_settings
    from prune_exp.settings.schema import Settings
    from prune_exp.text.corpus import load_corpus, load_reserved
    from prune_exp.text.documents import RESERVED
    from prune_exp.text.formats import split_into_documents

    assert store.promote() == 0
    version = str(store.alias("champion"))
    run = store.client.get_run(store.client.get_model_version("pruned-tiny", version).run_id)
    settings = restore_settings(Settings, run.data.params)
    dense = loading.load_model(Path(str(settings.model.path)))
    pruned = loading.load_model(store.files(run.data.params["sparsity"]))
    tokenizer = loading.load_tokenizer(Path(str(settings.model.path)))
    parts = split_into_documents(Path(str(settings.data.path)).read_text(encoding="utf-8"))[
        RESERVED::5
    ]
    ids = tokenizer("".join(part + "\n\n" for part in parts))["input_ids"][: 20 * 32]
    blocks = torch.tensor(ids).view(20, 32)
    loss = {
        side: sum(float(model(input_ids=b[None], labels=b[None]).loss) for b in blocks) / 20
        for side, model in (("dense", dense), ("pruned", pruned))
    }
    figures = json.loads(store.tags(version)["gate.quality"])["figures"]
    expected = math.exp(loss["pruned"] - loss["dense"])
    assert figures["perplexity_ratio"] == pytest.approx(expected, rel=1e-4)
    corpus = load_corpus(settings.data, settings.quality, tokenizer, seed=settings.seed)
    reserved = load_reserved(settings.data, settings.quality, tokenizer, blocks=20)
    kept = {tuple(block) for block in reserved.ids.tolist()}
    for used in (corpus.calibration, corpus.heldout):
        assert not kept & {tuple(block) for block in used.ids.tolist()}


@pytest.mark.parametrize(
    ("gate", "limits"),
    [
        ("quality", {"max_perplexity_ratio": 1e-3}),
        ("speedup", {"min_speedup": 1.36}),
        ("memory", {"min_memory_reduction_pct": 15.1}),
    ],
)
def test_a_refusal_moves_nothing_and_is_recorded(
    gate: str, limits: dict[str, Any], store: Store
) -> None:
    candidate = str(store.alias("candidate"))
    assert store.promote(limits=limits, gates=["integrity", gate]) == 1
    assert store.alias("champion") is None
    assert store.alias("candidate") == candidate
    tags = store.tags(candidate)
    assert tags["promotion"] == "refused"
    assert tags["promotion.reasons"].startswith(f"{gate}: ")
    assert not json.loads(tags[f"gate.{gate}"])["passed"]


def test_a_dry_run_writes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = str(store.alias("candidate"))
    before = store.tags(candidate)
    assert store.promote(dry_run=True, gates=FILES) == 0
    assert "would become the champion" in capsys.readouterr().out
    assert store.promote(dry_run=True, gates=["memory"], limits={"min_memory_reduction_pct": 100.0})
    assert store.alias("champion") is None
    assert store.tags(candidate) == before


def test_a_challenger_meets_the_champion_and_rolls_back(store: Store) -> None:
    best = store.client.get_model_version("pruned-tiny", "1").run_id
    other = next(store.run_id(s) for s in ("0.2", "0.4") if store.run_id(s) != best)
    assert store.promote(gates=FILES) == 0
    strict = {"champion_max_perplexity_ratio": 1e-3, "champion_min_speedup": 1e6}
    assert store.promote(run_id=other, limits=strict, gates=["champion"]) == 1
    assert store.alias("champion") == "1"
    reasons = store.client.get_run(other).data.tags["prune_exp.promotion.reasons"]
    assert "against version 1: perplexity" in reasons
    assert "its quality may be worse than 0.001 times" in reasons
    assert store.promote(run_id=other, gates=FILES) == 0
    assert (store.alias("champion"), store.alias("previous")) == ("2", "1")
    assert store.promote(version=2) == 0, "the champion is told that it is the champion"
    assert store.promote(rollback=True) == 0
    assert (store.alias("champion"), store.alias("previous")) == ("1", None)
    assert store.tags("2")["promotion"] == "rolled back"
    with pytest.raises(SettingError, match="has no previous champion"):
        store.promote(rollback=True)


def test_a_standing_champion_is_judged_again_where_that_is_asked(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_keys(tmp_path)
    foreign = {"public_key": str(tmp_path / "key.pub")}
    assert store.promote(gates=FILES) == 0
    version = str(store.alias("champion"))
    before = store.tags(version)
    assert store.promote(dry_run=True, gates=["signature"], limits=foreign, version=int(version))
    assert "no longer passes" in capsys.readouterr().out
    assert store.promote(gates=["memory"], limits={"min_memory_reduction_pct": 100.0}) == 1
    assert store.promote(dry_run=True, gates=FILES) == 0
    assert "still passes; nothing moves" in capsys.readouterr().out
    assert store.tags(version) == before
    assert store.alias("champion") == version


def test_a_version_says_which_gates_were_asked_last(store: Store) -> None:
    tight = {"min_memory_reduction_pct": 100.0}
    assert store.promote(gates=["integrity", "memory"], limits=tight) == 1
    candidate = str(store.alias("candidate"))
    assert "gate.memory" in store.tags(candidate)
    assert store.promote(gates=FILES) == 0
    found = store.tags(candidate)
    assert found["promotion.gates"] == "integrity, reload"
    assert "gate.memory" not in found


def test_champion_gate_needs_something_better() -> None:
    from types import SimpleNamespace

    from prune_exp.measurement.records import Interval
    from prune_exp.registry.gates import champion
    from prune_exp.settings.command_schemas import LimitSettings

    def made(low: float, high: float) -> Interval:
        return Interval(value=(low * high) ** 0.5, low=low, high=high)

    def passed(quality: tuple[float, float], speed: tuple[float, float]) -> bool:
        fake: Any = SimpleNamespace(
            champion=SimpleNamespace(version="1"),
            champion_fault=None,
            limits=LimitSettings(),
            losses=None,
            champion_losses=None,
            perplexity_ratio=lambda _a, _b: made(*quality),
            champion_speedup=lambda: made(*speed),
        )
        return champion(fake).passed

    assert passed((0.9, 0.99), (0.96, 1.1)), "better in quality, not slower"
    assert passed((0.98, 1.01), (1.01, 1.1)), "faster, no worse in quality"
    assert not passed((0.98, 1.01), (0.97, 1.03)), "not surely better in anything"
    assert not passed((0.9, 0.999), (0.96, 1.04)), "better by one chance of two"
    assert not passed((0.9, 0.99), (0.8, 0.9)), "slower"
    assert not passed((1.0, 1.1), (2.0, 3.0)), "quality may be worse"
    nan = float("nan")
    assert not passed((nan, nan), (nan, nan))


def test_swapped_weights_are_refused(store: Store) -> None:
    worse_copy(store, store.client.get_run(_best(store)).data.params["sparsity"])
    assert store.promote() == 1
    assert store.alias("champion") is None
    tags = store.tags("1")
    assert "not those that the trial recorded" in tags["promotion.reasons"]
    assert "the files failed integrity" in json.loads(tags["gate.quality"])["sentence"]


def test_with_a_key_only_what_its_holder_signed_is_promoted(store: Store) -> None:
    ours = {"public_key": str(store.root / "key.pub")}
    write_keys(store.root, "other")
    theirs = {"public_key": str(store.root / "other.pub")}
    assert store.promote(limits=theirs, gates=["signature", "reload"]) == 1
    assert "another key" in store.tags("1")["promotion.reasons"]
    assert "the files failed signature" in json.loads(store.tags("1")["gate.reload"])["sentence"]
    assert store.promote(limits=ours) == 0
    assert json.loads(store.tags("1")["gate.signature"])["passed"]


def test_whoever_changes_files_and_their_digests_still_lacks_the_key(store: Store) -> None:
    from prune_exp.machine.cache import folder_sha256
    from prune_exp.model.export import weights_sha256

    sparsity = store.client.get_run(_best(store)).data.params["sparsity"]
    worse_copy(store, sparsity)
    for tag, found in (
        ("prune_exp.weights_sha256", weights_sha256(store.files(sparsity))),
        ("prune_exp.files_sha256", folder_sha256(store.files(sparsity))),
    ):
        store.client.set_tag(_best(store), tag, found)
    asked = ["integrity", "signature"]
    limits = {"public_key": str(store.root / "key.pub")}
    assert store.promote(limits=limits, gates=asked, dry_run=True) == 1
    assert store.promote(gates=asked) == 1, "no key to check against"
    assert store.promote(limits=limits, gates=["integrity"], dry_run=True) == 0


def test_a_changed_config_is_refused(store: Store) -> None:
    file = store.files(store.client.get_run(_best(store)).data.params["sparsity"]) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"rms_norm_eps": 0.5}), encoding="utf-8")
    assert store.promote(gates=["integrity"]) == 1
    assert "other than the weights" in store.tags("1")["promotion.reasons"]


def test_another_dense_model_or_text_is_refused(
    store: Store, tmp_path: Path, text_file: Path
) -> None:
    import sqlite3

    other, text = tmp_path / "other", tmp_path / "other.txt"
    make_tiny("llama", seed=1).save_pretrained(other)
    text.write_text(text_file.read_text(encoding="utf-8")[100:], encoding="utf-8")

    def point(key: str, value: object) -> None:
        with sqlite3.connect(store.root / "mlruns" / "mlflow.db") as database:
            database.execute("update params set value = ? where key = ?", (str(value), key))

    run_id, output = store.run_id("0.2"), tmp_path / "out"
    point("data.path", text)
    done = store.call("rebuild", f"run_id={run_id}", f"output={output}")
    assert "text from other.txt has digest" in done.stderr
    assert store.promote(gates=["quality"]) == 1
    assert "text from other.txt has digest" in store.tags("1")["promotion.reasons"]
    point("model.path", other)
    done = store.call("rebuild", f"run_id={run_id}", f"output={output}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the dense model in" in done.stderr
    assert not output.exists()


def test_of_two_promotions_at_once_one_wins(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    from prune_exp.registry import promotion as module

    barrier = threading.Barrier(2)
    judged = module.judge_candidate

    def meet(case: Any, names: list[str]) -> Any:
        verdicts = judged(case, names)
        barrier.wait(60)
        return verdicts

    outcomes: dict[str, Any] = {}
    runs = [store.run_id("0.2"), store.run_id("0.4")]

    def one(run_id: str) -> None:
        try:
            outcomes[run_id] = store.promote(run_id=run_id, gates=["integrity"])
        except SettingError as error:
            outcomes[run_id] = str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "judge_candidate", meet)
        threads = [threading.Thread(target=one, args=(run_id,)) for run_id in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    codes = [value for value in outcomes.values() if value == 0]
    words = [value for value in outcomes.values() if isinstance(value, str)]
    assert len(codes) == len(words) == 1, outcomes
    assert "another promotion made version" in words[0]
    assert store.alias("previous") is None
    assert f"Version {store.alias('champion')} is the champion" in capsys.readouterr().out


def test_a_promotion_that_waits_too_long_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_exp.registry import promotion as module
    from prune_exp.settings.groups import TrackingSettings

    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0)
    with (
        module.lock_aliases(TrackingSettings(root=str(store.root / "mlruns"))),
        pytest.raises(SettingError, match="another promotion holds"),
    ):
        store.promote(gates=["integrity"])
    assert store.alias("champion") is None


@pytest.mark.parametrize(
    ("module", "args", "words"),
    [
        ("promote", ["run_id=nowhere"], "run_id=nowhere is not in this store"),
        ("promote", ["version=77"], "version=77 of pruned-tiny is not in the registry"),
        ("promote", ["gates=[qualty]"], "did you mean quality?"),
        ("promote", ["tracking.root=elsewhere"], "there is no store at"),
        ("promote", ["limits.blocks=100000", "gates=[quality]"], "fewer limits.blocks"),
        ("promote", ["dryrun=true"], "did you mean dry_run?"),
        ("rebuild", ["run_id=nowhere", "output=out"], "run_id=nowhere is not in this store"),
        ("rebuild", ["output=out"], "run_id must be given"),
        ("rebuild", ["run_id=x", "output=mlruns"], "exists; give a folder that does not"),
    ],
)
def test_errors_are_one_line(module: str, args: list[str], words: str, tracked: Store) -> None:
    done = tracked.call(module, *args, *(["dry_run=true"] if module == "promote" else []))
    assert done.returncode == 1
    shown = done.stderr if "blocks" not in args[0] else done.stdout
    assert words in shown
    assert "Traceback" not in done.stderr
    if "blocks" not in args[0]:
        assert done.stderr.count("\n") == 1, done.stderr
    assert not (tracked.root / "elsewhere").exists()


def _best(store: Store) -> str:
    return store.client.get_model_version("pruned-tiny", "1").run_id


def test_a_damaged_champion_is_not_compared_with(store: Store) -> None:
    first, second = store.run_id("0.2"), store.run_id("0.4")
    assert store.promote(run_id=first, gates=["integrity"]) == 0
    worse_copy(store, "0.2")
    assert store.promote(run_id=second, gates=["champion"], dry_run=True) == 1
    assert store.promote(run_id=second, gates=["champion"]) == 1
    (found,) = store.client.search_model_versions(f"run_id = '{second}'") or [None]
    reasons = (
        store.client.get_run(second).data.tags["prune_exp.promotion.reasons"]
        if found is None
        else store.tags(str(found.version))["promotion.reasons"]
    )
    assert "the champion, the stored weights are not those that the trial recorded" in reasons


def test_the_gates_judge_on_the_device_of_the_trial(store: Store) -> None:
    from prune_exp.registry.candidates import choose_candidate
    from prune_exp.registry.evidence import Evidence
    from prune_exp.settings.command_schemas import LimitSettings, PromoteSettings
    from prune_exp.settings.groups import TrackingSettings

    settings = PromoteSettings(tracking=TrackingSettings(root=str(store.root / "mlruns")))
    (scratch := store.root / "scratch").mkdir()
    candidate = choose_candidate(settings, scratch)
    case = Evidence(candidate=candidate, champion=None, limits=LimitSettings(), cache_dir=scratch)
    candidate.trial.params["device"] = "auto"
    candidate.trial.tags["device"] = "cpu"
    assert case.device == "cpu"
    candidate.trial.tags["device"] = "cuda (NVIDIA X)"
    with pytest.raises(SettingError, match="cuda"):
        _ = case.device
