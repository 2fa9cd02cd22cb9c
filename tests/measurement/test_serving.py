"""What cannot be served is refused, and exports are named by what they depend on."""

from pathlib import Path
from typing import Any

import pytest

from prune_exp.measurement import serving
from prune_exp.measurement.backends import BACKENDS
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings, RuntimeSettings
from support.cli import command
from support.models import make_tiny

REFUSED = [
    (["benchmark.backend=onxruntime"], "did you mean onnxruntime"),
    (["benchmark.runtime.dtype=float16"], "did you mean"),
    (["benchmark.runtime.compile=true"], "benchmark.runtime.cache=static"),
    (["benchmark.backend=openvino", "benchmark.runtime.cache=static"], "has its own cache"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_bad_runtimes_are_refused_in_one_line(
    given: list[str], words: str, tiny_args: list[str], tmp_path: Path
) -> None:
    done = command(*tiny_args, *given, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def config_of(model_type: str) -> Any:
    return make_tiny(model_type).config


def settings(**changes: Any) -> BenchmarkSettings:
    runtime = {key: changes.pop(key) for key in ("dtype", "cache", "compile") if key in changes}
    return BenchmarkSettings(runtime=RuntimeSettings(**runtime), **changes)


def test_what_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = config_of("llama")
    monkeypatch.setattr(serving, "computes_bfloat16", lambda _: False)
    with pytest.raises(SettingError, match="avx512_bf16"):
        serving.check_serving(settings(dtype="bfloat16"), llama, 40, "cpu")
    assert serving.choose_dtype(settings(dtype="auto"), "cpu") == "float32"
    serving.check_serving(settings(dtype="auto"), llama, 40, "cpu")
    monkeypatch.setattr(serving, "computes_bfloat16", lambda _: True)
    serving.check_serving(settings(dtype="bfloat16"), llama, 40, "cpu")
    assert serving.choose_dtype(settings(dtype="auto"), "cpu") == "bfloat16"
    assert serving.choose_dtype(settings(dtype="auto", backend="onnxruntime"), "cpu") == "float32"
    monkeypatch.setattr(serving.shutil, "which", lambda _: None)
    compiled = settings(cache="static", compile=True)
    with pytest.raises(SettingError, match="compiler"):
        serving.check_serving(compiled, llama, 40, "cpu")
    monkeypatch.setattr(serving.shutil, "which", lambda name: name)
    serving.check_serving(compiled, llama, 40, "cpu")
    with pytest.raises(SettingError, match="sliding windows"):
        serving.check_serving(compiled, config_of("gemma3_text"), 40, "cpu")
    monkeypatch.setattr(serving, "find_spec", lambda _: None)
    for name, backend in BACKENDS.items():
        if backend.modules:
            with pytest.raises(SettingError, match=rf"prune-exp\[{backend.extra}\]"):
                serving.check_serving(settings(backend=name), llama, 40, "cpu")
    serving.check_serving(settings(backend="openvino", enabled=False), llama, 40, "cpu")


def test_what_a_backend_cannot_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda _: True)
    with pytest.raises(SettingError, match="cannot serve gemma3_text"):
        serving.check_serving(settings(backend="openvino"), config_of("gemma3_text"), 40, "cpu")
    with pytest.raises(SettingError, match="use float32"):
        serving.check_serving(
            settings(backend="onnxruntime", dtype="bfloat16"), config_of("llama"), 40, "cpu"
        )
    with pytest.raises(SettingError, match="use device=cpu"):
        serving.check_serving(settings(backend="openvino"), config_of("llama"), 40, "cuda")
    windows = config_of("mistral")
    windows.sliding_window = 40
    serving.check_serving(settings(backend="openvino"), windows, 40, "cpu")
    with pytest.raises(SettingError, match="40 of up to 41 tokens"):
        serving.check_serving(settings(backend="openvino"), windows, 41, "cpu")
    scaled = config_of("llama")
    scaled.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(SettingError, match="type linear"):
        serving.check_serving(settings(backend="llama_cpp"), scaled, 40, "cpu")
    serving.check_serving(settings(backend="openvino"), scaled, 40, "cpu")


def test_an_export_is_named_by_all_that_it_depends_on(tiny_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_tiny("llama", seed=1).save_pretrained(other)
    names = {
        serving.export_name(folder, settings(backend=backend), dtype)
        for folder in (tiny_folder, other)
        for backend in ("openvino", "onnxruntime")
        for dtype in ("float32", "bfloat16")
    }
    assert len(names) == 8
    again = serving.export_name(tiny_folder, settings(backend="openvino"), "float32")
    assert again in names
