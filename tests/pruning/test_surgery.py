"""A pruned model is the dense model without some units."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model import loading
from prune_exp.model.architectures import layers_of, shape_of, weight_matrix
from prune_exp.pruning import surgery
from prune_exp.pruning.plan import PruningPlan
from support.models import GROUPED, MODEL_TYPES, make_tiny
from support.plans import plan_for
from support.tokenizers import make_tokenizer

IDS = torch.randint(1, 300, (4, 24), generator=torch.Generator().manual_seed(1))


def silence(model: Any, plan: PruningPlan) -> None:
    """The dense model with the plan's units zeroed where they are read."""
    for index, block in enumerate(layers_of(model)):
        out, down = weight_matrix(block.heads_out), weight_matrix(block.mlp_out)
        if index in plan.layers:
            out.zero_()
            down.zero_()
            for one in (block.heads_out, block.mlp_out):
                if one.bias is not None:
                    one.bias.zero_()
            continue
        for head in plan.heads[index]:
            out[:, 8 * head : 8 * head + 8] = 0
        down[:, list(plan.channels[index])] = 0


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("kind", ["group", "query"])
def test_pruned_logits_equal_silenced_dense(model_type: str, kind: str, tmp_path: Path) -> None:
    plan = plan_for(kind)
    if model_type not in GROUPED:
        plan = replace(plan, heads=dict.fromkeys(plan.heads, ()))
    dense = make_tiny(model_type)
    silence(dense, plan)
    pruned = surgery.carry_out_plan(make_tiny(model_type), plan, None)
    expected = dense(IDS).logits
    assert torch.allclose(pruned(IDS).logits, expected, atol=1e-4)
    assert shape_of(pruned).params_total < shape_of(dense).params_total
    loading.save_model(pruned, make_tokenizer(), tmp_path / "pruned")
    torch.save(expected, tmp_path / "expected.pt")
    again = loading.load_model(tmp_path / "pruned")
    assert torch.allclose(again(IDS).logits, expected, atol=1e-4)


def test_stock_loading_and_cached_generation_in_a_fresh_process(tmp_path: Path) -> None:
    expected = {}
    for model_type in MODEL_TYPES:
        plan = plan_for("group")
        if model_type not in GROUPED:
            plan = replace(plan, heads=dict.fromkeys(plan.heads, ()))
        pruned = surgery.carry_out_plan(make_tiny(model_type), plan, None)
        loading.save_model(pruned, make_tokenizer(), tmp_path / model_type)
        expected[model_type] = float(pruned(torch.arange(1, 9)[None]).logits.double().sum())
    script = (
        "import json, sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "sums = {}\n"
        "for name in sys.argv[1:]:\n"
        "    m = AutoModelForCausalLM.from_pretrained(name).eval()\n"
        "    x = torch.arange(1, 9)[None]\n"
        "    a = m.generate(x, max_new_tokens=6, do_sample=False, use_cache=True)\n"
        "    b = m.generate(x, max_new_tokens=6, do_sample=False, use_cache=False)\n"
        "    assert torch.equal(a, b), (name, a, b)\n"
        "    sums[name] = float(m(x).logits.double().sum())\n"
        "print(json.dumps(sums))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *MODEL_TYPES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-3)
