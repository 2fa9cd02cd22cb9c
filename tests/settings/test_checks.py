"""Settings that cannot work are refused before anything is loaded or written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_exp.settings.checks import check_settings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import (
    DataSettings,
    ModelSettings,
    TrackingSettings,
)
from prune_exp.settings.schema import Settings
from support.cli import command
from support.lessons import CONTEXT, make_settings
from support.settings import settings_for


@pytest.mark.parametrize("name", ["a' or name != '", "../../up", "a/b", "a:b", "", "a\nb"])
def test_names_that_reach_beyond_are_refused(name: str) -> None:
    settings = Settings(model=ModelSettings(name=name, package="p"))
    settings.pruning.voters, settings.data.path = ["wanda"], "text"
    with pytest.raises(SettingError, match="is no name"):
        check_settings(settings)
    settings.model.name = "fine"
    settings.tracking = TrackingSettings(registered_model=name)
    with pytest.raises(SettingError, match="is no name"):
        check_settings(settings)


def test_a_hub_model_needs_a_revision() -> None:
    settings = Settings(model=ModelSettings(name="what", hub_id="who/what"))
    settings.pruning.voters, settings.data.path = ["wanda"], "text"
    with pytest.raises(SettingError, match=r"pin one with model\.revision=COMMIT"):
        check_settings(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_sizes": []}, "batch_sizes is empty"),
        ({"batch_sizes": [8, 0]}, "batch_sizes=0 is too small"),
        ({"batch_rounds": 5}, "batch_rounds=5 is odd, .* use benchmark.batch_rounds=6"),
        ({"batch_rounds": 1}, "batch_rounds=1 is too small"),
        ({"target_ci_pct": 0.0}, "target_ci_pct=0 is too small"),
        ({"budget_s": -1.0}, "budget_s=-1 is too small"),
    ],
)
def test_impossible_measurements_are_refused(change: dict[str, object], words: str) -> None:
    settings = Settings(model=ModelSettings(name="m", path="m"), data=DataSettings(path="t"))
    settings.pruning.voters = ["wanda"]
    check_settings(settings)
    for name, value in change.items():
        setattr(settings.benchmark, name, value)
    with pytest.raises(SettingError, match=words):
        check_settings(settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "distil"}, "did you mean distill?"),
        ({"tokens": None}, "needs a budget"),
        ({"tokens": CONTEXT - 1}, "less than one step"),
        ({"text": "all"}, "recovery.text=all is unknown"),
        ({"dtype": "float16"}, "did you mean bfloat16?"),
        ({"warmup_share": 1.0}, "not in [0, 1)"),
        ({"learning_rate": 0.0}, "recovery.learning_rate=0 is too small"),
        ({"minutes": 0.0}, "recovery.minutes=0 is too small"),
        ({"lora_rank": -1}, "recovery.lora_rank=-1 is too small"),
        ({"lora_rank": 4, "train_embeddings": True}, "recovery.train_embeddings=false"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], words: str, tiny_folder: Path) -> None:
    whole = Settings(recovery=make_settings(**changes))
    whole.model.path, whole.model.name = str(tiny_folder), "tiny"
    whole.data.path, whole.pruning.voters = "text.txt", ["wanda"]
    with pytest.raises(SettingError) as refusal:
        check_settings(whole)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    check_settings(replace(whole, recovery=make_settings()))


@pytest.mark.parametrize(
    ("name", "value", "least"), [("reconstruct_epochs", -1, "0"), ("reconstruct_step", 0, "1e-06")]
)
def test_no_layer_is_trained_backwards(
    name: str, value: int, least: str, tiny_folder: Path
) -> None:
    whole = Settings()
    whole.model.path, whole.model.name = str(tiny_folder), "tiny"
    whole.data.path, whole.pruning.voters = "text.txt", ["wanda"]
    check_settings(whole)
    setattr(whole.pruning, name, value)
    wanted = f"pruning.{name}={value} is too small; use pruning.{name}={least} or more"
    with pytest.raises(SettingError, match=wanted):
        check_settings(whole)


def test_masks_are_not_trained_over(tiny_folder: Path) -> None:
    whole = Settings(recovery=make_settings())
    whole.model.path, whole.data.path = str(tiny_folder), "text.txt"
    whole.model.name = "tiny"
    whole.pruning.voters, whole.pruning.method = ["wanda"], "weight_masks"
    with pytest.raises(SettingError, match="would fill the zeros"):
        check_settings(whole)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["pruning.voters=[wanda,gradient,wanda]"],
            "names wanda more than once, and every voter has one vote; try"
            " pruning.voters=[wanda,gradient]",
        ),
        (["pruning.rehearse=[1.5]"], "pruning.rehearse holds 1.5"),
        (["pruning.rehearse_vocab=[-1]"], "pruning.rehearse_vocab holds -1"),
        (
            ["pruning.units=[mlp]", "pruning.rehearse_vocab=[0.5]"],
            "pruning.units=[layers,heads,mlp,vocab]",
        ),
        (["pruning.rehearse=[0.3]", "pruning.refit=false"], "pruning.refit=true"),
        (["pruning.rehearse=[0.3]", "data.calibration_blocks=1"], "data.calibration_blocks=2"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(
    given: list[str], said: str, tiny_args: list[str], tmp_path: Path
) -> None:
    done = command(*tiny_args, *given, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": "model"}, "use one of documents, generated"),
        ({"generation_temperature": 0.0}, "use data.generation_temperature=0.01 or more"),
    ],
)
def test_wrong_settings_of_generated_text_are_refused(
    changes: dict[str, Any], words: str, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=words):
        check_settings(settings_for(tiny_folder, text_file, tmp_path, **changes))


def test_a_file_beside_the_mix_is_told_what_to_type(tmp_path: Path) -> None:
    done = command("data.path=mine.txt", cwd=tmp_path)
    assert done.returncode != 0
    (said,) = done.stderr.splitlines()
    assert "for that file alone type data=file data.path=mine.txt" in said
    assert [*tmp_path.iterdir()] == []


def test_a_packages_file_beside_a_mix_stays_the_packages(tiny_folder: Path) -> None:
    whole = Settings(data=DataSettings(package="some", path="wiki.utf8", mix=["a.txt:1"]))
    whole.model.path, whole.model.name = str(tiny_folder), "tiny"
    whole.pruning.voters = ["wanda"]
    with pytest.raises(SettingError, match=r"that file alone type data\.mix=\[\], for the others"):
        check_settings(whole)
