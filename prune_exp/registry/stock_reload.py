"""A checkpoint in a fresh process that knows transformers and nothing of this package."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prune_exp.model import loading
from prune_exp.settings.errors import SettingError

STOCK = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder, ids, answer, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
).eval()
with torch.no_grad():
    save_file({"logits": model(load_file(ids)["ids"]).logits.contiguous()}, answer)
assert not [name for name in sys.modules if name.startswith("prune_exp")]
"""


def logit_difference(folder: Path, ids: torch.Tensor) -> float:
    """Largest difference of our logits and stock transformers' on ids [blocks, tokens].

    Raises:
        SettingError: the fresh process could not load the checkpoint.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked = Path(scratch) / "ids.safetensors"
        answer = Path(scratch) / "logits.safetensors"
        save_file({"ids": ids.contiguous()}, asked)
        threads = str(torch.get_num_threads())
        done = subprocess.run(
            [sys.executable, "-P", "-c", STOCK, str(folder), str(asked), str(answer), threads],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SettingError(f"stock transformers cannot load it: {last}")
        theirs = load_file(answer)["logits"]
    with torch.no_grad():
        ours = loading.load_model(folder)(ids).logits
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max())
