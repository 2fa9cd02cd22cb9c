"""A trial is rebuilt bit for bit, or not at all."""

from pathlib import Path

import pytest

from prune_exp.settings.errors import SettingError
from support.store import Store

pytestmark = pytest.mark.slow


def test_a_trial_is_rebuilt_bit_for_bit(tracked: Store, tmp_path: Path) -> None:
    from prune_exp.machine.cache import file_sha256

    run_id, output = tracked.run_id("0.2"), tmp_path / "again"
    args = ["rebuild", f"run_id={run_id}", f"output={output}"]
    done = tracked.call(*args)
    assert done.returncode == 0, done.stderr
    recorded = tracked.client.get_run(run_id).data.tags["prune_exp.weights_sha256"]
    assert f"bit-identical to the trial's weights (sha256 {recorded})" in done.stdout
    assert file_sha256(output / "model.safetensors") == recorded
    assert (output / "tokenizer.json").is_file()


def test_a_rebuild_that_differs_is_not_kept(store: Store, tmp_path: Path) -> None:
    from prune_exp.settings.command_schemas import RebuildSettings
    from prune_exp.settings.groups import TrackingSettings
    from prune_exp.trial.rebuild import rebuild_trial

    run_id = store.run_id("0.2")
    store.client.set_tag(run_id, "prune_exp.weights_sha256", "0" * 64)
    for keep in (False, True):
        wanted = RebuildSettings(
            run_id=run_id,
            output=str(tmp_path / "again"),
            allow_different=keep,
            cache_dir=str(store.cache),
            tracking=TrackingSettings(root=str(store.root / "mlruns")),
        )
        with pytest.raises(SettingError, match="the trial recorded 0000"):
            rebuild_trial(wanted)
        assert (tmp_path / "again").exists() == keep


def test_weights_have_no_name_before_they_are_compared(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_exp.settings.command_schemas import RebuildSettings
    from prune_exp.settings.groups import TrackingSettings
    from prune_exp.trial import rebuild

    output = tmp_path / "again"
    wanted = RebuildSettings(
        run_id=store.run_id("0.2"),
        output=str(output),
        cache_dir=str(store.cache),
        tracking=TrackingSettings(root=str(store.root / "mlruns")),
    )

    (tmp_path / ".again-1.partial").mkdir()

    def interrupt(made: Path) -> str:
        assert list(made.iterdir())
        assert not output.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "weights_sha256", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rebuild.rebuild_trial(wanted)
    assert not list(tmp_path.glob("*again*"))
    assert rebuild.rebuild_trial(wanted) == 0
    assert [path.name for path in tmp_path.glob("*again*")] == ["again"]


def test_a_trained_model_is_not_rebuilt() -> None:
    from prune_exp.settings.groups import RecoverySettings
    from prune_exp.settings.schema import Settings
    from prune_exp.trial.rebuild import check_rebuildable

    with pytest.raises(SettingError, match="trained its model after pruning"):
        check_rebuildable(Settings(recovery=RecoverySettings(name="distillation")))
