"""SmolLM2-135M from its package, end to end."""

from pathlib import Path

import pytest
from conftest import command

pytestmark = pytest.mark.real_model


def test_half_of_smollm2_is_gone_and_tracked(tmp_path: Path) -> None:
    done = command(
        "-m", "experiment=quick", "sparsity=0.5", "benchmark.prompts=2", cwd=tmp_path, timeout=1500
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
