"""A trial with its layers on disk finds what a trial in memory finds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.machine.memory import device_memory_mib
from prune_exp.model.architectures import shape_of
from prune_exp.settings.checks import check_settings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings
from prune_exp.trial import dense, prepare, run
from support.models import make_tiny
from support.settings import settings_for
from support.tokenizers import make_bpe_tokenizer


def make_folder(folder: Path) -> Path:
    tokenizer = make_bpe_tokenizer()
    make_tiny("llama", vocab=len(tokenizer)).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("vocab_share", [0.0, 0.5])
def test_both_find_the_same(vocab_share: float, text_file: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    found = {}
    for name in ("loaded", "opened"):
        settings = settings_for(folder, text_file, tmp_path / name, calibration="documents")
        settings.model.offload = name == "opened"
        settings.pruning.vocab_share = vocab_share
        settings.pruning.voters = ["gradient", "wanda", "similarity"]
        check_settings(settings)
        found[name] = run.run_trial(settings, tmp_path / name / "out")
        assert [path.name for path in (tmp_path / name / "out").iterdir()] == ["model"]
    ours, theirs = found["opened"], found["loaded"]
    assert ours.plan == theirs.plan
    assert ours.weights_sha256 == theirs.weights_sha256
    assert ours.pruned_shape == theirs.pruned_shape
    assert ours.quality is not None
    assert theirs.quality is not None
    pairs = [(ours.quality.dense, theirs.quality.dense)]
    pairs.append((ours.quality.pruned, theirs.quality.pruned))
    for one, other in pairs:
        assert one.bits_per_byte == pytest.approx(other.bits_per_byte, rel=1e-5)


@pytest.mark.parametrize(
    ("group", "change", "words"),
    [
        ("recovery", {"name": "distill", "minutes": 1.0}, "recovery=distill .*use recovery=none"),
        ("pruning", {"method": "stochastic"}, "stochastic .*use pruning.method=structured"),
        ("pruning", {"rehearse": [0.4]}, r"pruning.rehearse needs .*use pruning.rehearse=\[\]"),
        ("pruning", {"units": ["vocab", "mlp"], "rehearse_vocab": [0.4]}, "rehearse_vocab"),
        ("data", {"calibration": "generated"}, "use data.calibration=documents"),
        ("tracking", {"promote": True}, "use tracking.promote=false"),
    ],
)
def test_what_needs_all_layers_at_once_is_refused(
    group: str, change: dict[str, Any], words: str
) -> None:
    settings = settings_for(Path("m"), Path("t"), Path("c"), calibration="documents")
    setattr(settings, group, replace(getattr(settings, group), **change))
    settings.benchmark.enabled = True
    check_settings(settings)
    settings.model.offload = True
    with pytest.raises(SettingError, match=words) as refused:
        check_settings(settings)
    assert "\n" not in str(refused.value)
    assert "or model.offload=false" in str(refused.value)


def large(params: int, **changes: Any) -> tuple[Settings, Any]:
    settings = Settings(sparsity=0.5)
    settings.model.offload = True
    settings.benchmark.enabled = False
    settings.tracking.log_models = "none"
    for name, value in changes.items():
        group, _, setting = name.partition("__")
        setattr(getattr(settings, group), setting, value)
    return settings, replace(shape_of(make_tiny("llama")), params_total=params)


def test_models_that_do_not_fit_are_refused_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert device_memory_mib("cpu") > 100
    gib = 2**30
    for name in ("device_memory_mib", "total_memory_mib"):
        monkeypatch.setattr(dense, name, lambda *_: 4096.0)
    dense.check_memory(*large(2 * gib), "cpu")
    dense.check_memory(*large(2**29, model__offload=False), "cpu")
    refused = {
        "type model.offload=true": large(2 * gib, model__offload=False),
        "12,288 MiB .* type benchmark=off": large(2 * gib, benchmark__enabled=True),
        "8,192 MiB .* type tracking.log_models=none": large(4 * gib, tracking__log_models="best"),
    }
    for words, asked in refused.items():
        with pytest.raises(SettingError, match=words):
            dense.check_memory(*asked, "cpu")


def test_every_point_of_a_sweep_has_to_fit(
    tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = settings_for(tiny_folder, text_file, tmp_path, calibration="documents")
    first.model.offload, first.sparsity = True, 0.5
    second = replace(first, sparsity=0.1)
    half = 4 * prepare.prepare_trial(first).dense.shape.params_total / 2 / 2**20
    monkeypatch.setattr(dense, "total_memory_mib", lambda: 1.1 * half)
    prepare.check_points([first])
    with pytest.raises(SettingError, match=r"tracking\.log_models=none"):
        prepare.check_points([first, second])
