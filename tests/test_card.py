"""What travels with a stored model."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from tracked_sweep import Store

pytestmark = pytest.mark.slow
ALLOWED = {".safetensors", ".json", ".md", ".txt", ".yaml", ".jinja", ".sig", ""}
LOAD = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/pruned-tiny@candidate")
assert list(model.input_example) == ["The river"], model.input_example
print(len(model.predict(["the river"], params={"max_new_tokens": 2})))
"""


def test_the_card_says_what_was_tracked(tracked: Store) -> None:
    from huggingface_hub import ModelCard

    for sparsity in ("0.2", "0.4"):
        card = ModelCard.load(tracked.files(sparsity) / "README.md")
        metrics = tracked.client.get_run(tracked.run_id(sparsity)).data.metrics
        data = card.data.to_dict()
        assert data["library_name"] == "transformers"
        assert data["pipeline_tag"] == "text-generation"
        assert data["license"] == "mit"
        assert "pruned" in data["tags"]
        assert data["datasets"] == ["text.txt"]
        known: Any = card.data
        found = {one.metric_type: one.metric_value for one in known.eval_results}
        assert found == {
            "perplexity": metrics["pruned/perplexity"],
            "bits_per_byte": metrics["pruned/bits_per_byte"],
            "perplexity_ratio": metrics["perplexity_ratio"],
        }
        low, high = (metrics[f"speedup_ci95_{end}"] for end in ("low", "high"))
        assert f"| {low:.3f} to {high:.3f} |" in card.text
        for words in ("## Uses and limits", "## Procedure", "whose licence is mit"):
            assert words in card.text


@pytest.mark.parametrize(("kept", "words"), [(1.0, "is maintained"), (0.0, "**not maintained**")])
def test_lost_quality_is_said_plainly(kept: float, words: str) -> None:
    from prune_exp.registry.card import model_card
    from prune_exp.tracking.read import TrackedTrial

    metrics = {
        "sparsity_achieved": 0.5,
        "quality_maintained": kept,
        "perplexity_ratio": 3.0,
        "perplexity_ratio_ci95_low": 2.9,
        "perplexity_ratio_ci95_high": 3.1,
    }
    trial = TrackedTrial(
        run_id="1",
        name="t",
        status="FINISHED",
        number=0,
        metrics=metrics,
        params={"model.base_model": "who/what", "data.path": "/home/me/secret place/text.txt"},
        tags={},
    )
    card = model_card(trial, None)
    assert words in card.text
    assert card.data.base_model == "who/what"
    assert "Speed and memory were not measured" in card.text
    assert "/home/me" not in str(card)


def test_only_data_is_stored_and_it_loads_without_pickle(tracked: Store) -> None:
    folder = tracked.files("0.2").parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= ALLOWED
    names = {path.relative_to(folder).as_posix() for path in files}
    wanted = {"README.md", "LICENSE.txt", "plan.json", "model.safetensors", "tokenizer.json"}
    assert {f"model/{name}" for name in wanted} <= names
    assert {"MLmodel", "requirements.txt", "input_example.json", "model_card.md"} <= names
    pinned = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert all("==" in line and "+" not in line for line in pinned)
    assert "huggingface.co" not in (folder / "LICENSE.txt").read_text(encoding="utf-8")
    run_id = tracked.run_id("0.2")
    stored = json.loads((folder / "model" / "plan.json").read_text(encoding="utf-8"))
    path = tracked.root / "mlruns" / "artifacts" / run_id / "artifacts" / "plan.json"
    assert stored == json.loads(path.read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tracked.uri],
        capture_output=True,
        text=True,
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


def test_stored_weights_are_the_trials_bytes(tracked: Store) -> None:
    from prune_exp.machine.cache import file_sha256, folder_sha256

    for sparsity in ("0.2", "0.4"):
        tags = tracked.client.get_run(tracked.run_id(sparsity)).data.tags
        folder = tracked.files(sparsity)
        assert file_sha256(folder / "model.safetensors") == tags["prune_exp.weights_sha256"]
        assert folder_sha256(folder) == tags["prune_exp.files_sha256"]
