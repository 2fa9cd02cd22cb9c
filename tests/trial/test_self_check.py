"""The self-check measures as a trial does and judges as it says."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from prune_exp.measurement.records import Interval
from prune_exp.settings.errors import SettingError
from prune_exp.trial import self_check
from prune_exp.trial.self_check import least_containing, sum_up, take_repetitions
from support.cli import command
from support.models import make_tiny
from support.tokenizers import make_tokenizer


def test_the_self_check_goes_the_way_of_a_trial(tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    arguments = ["repetitions=1", "model=folder", f"model.path={tmp_path / 'm'}"]
    arguments += [f"cache_dir={tmp_path}", "benchmark.prompts=4", "benchmark.new_tokens=3"]
    arguments += ["benchmark.max_rounds=2", "benchmark.min_pairs=6", "benchmark.threads=1"]
    done = command(*arguments, module="prune_exp.self_check", cwd=tmp_path)
    assert done.returncode in (0, 1)
    first, last = done.stdout.strip().splitlines()
    assert first.startswith("1: ratio ")
    assert "95 % interval" in first
    assert any(f"stopped by {why}" in first for why in ("rounds", "target_ci"))
    assert last.startswith(("1 of 1 intervals", "0 of 1 intervals"))
    assert ("not passed" in last) == (done.returncode == 1)
    assert {path.name for path in tmp_path.iterdir()} <= {"m", "digests"}


def test_a_wrong_override_of_the_self_check_is_one_line(tmp_path: Path) -> None:
    done = command("benchmark.thread=2", module="prune_exp.self_check", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean benchmark.threads?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "many", ""])
def test_repetitions_are_a_setting_like_others(wrong: str) -> None:
    assert take_repetitions(["seed=1"]) == (1, ["seed=1"])
    assert take_repetitions(["repetitions=20", "seed=1"]) == (20, ["seed=1"])
    with pytest.raises(SettingError, match="try repetitions=20"):
        take_repetitions([f"repetitions={wrong}"])


@pytest.mark.parametrize("words", [["--repetitions", "0"], ["repetitions=0"]])
def test_wrong_repetitions_are_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["self_check", *words])
    with pytest.raises(SystemExit) as ended:
        self_check.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prune_exp.self_check: error: repetitions=0 is no whole number")


def test_sum_ups() -> None:
    good = Interval(value=1.0, low=0.99, high=1.02)
    off = Interval(value=1.03, low=1.01, high=1.05)
    wide = Interval(value=1.0, low=0.9, high=1.1)
    assert sum_up([good])[1]
    assert not sum_up([off])[1]
    assert not sum_up([wide])[1]
    assert [least_containing(count) for count in (2, 5, 20, 100)] == [1, 4, 17, 91]
    assert not sum_up([good] * 16 + [off] * 4)[1], "four in five are no 95 %"
    assert sum_up([good] * 17 + [off] * 3)[1]
    assert not sum_up([good] * 15 + [off] * 5)[1]
    said = sum_up([good] * 17 + [off] * 3)[0]
    assert "17 of 20 intervals contain 1.00, 17 are asked for" in said
    assert "62 to 97 % do" in said


@pytest.mark.parametrize(("high", "code"), [(1.02, 0), (0.999, 1)])
def test_the_exit_code_is_the_verdict(
    high: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = SimpleNamespace(speedup=Interval(value=0.995, low=0.99, high=high))
    monkeypatch.setattr(self_check, "compose_settings", lambda _: None)
    monkeypatch.setattr(self_check, "measure_itself", lambda _: measured)
    monkeypatch.setattr(self_check, "describe_check", lambda *_: "measured")
    monkeypatch.setattr(sys, "argv", ["self_check", "--repetitions", "3"])
    with pytest.raises(SystemExit) as ended:
        self_check.main()
    assert ended.value.code == code
    assert ("not passed" in capsys.readouterr().out) == bool(code)
