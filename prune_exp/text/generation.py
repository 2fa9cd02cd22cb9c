"""Text that the dense model writes, kept on disk batch by batch."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from prune_exp.machine.cache import cached_folder, digest_of
from prune_exp.machine.device import computes_bfloat16
from prune_exp.model.loading import load_model
from prune_exp.model.plain_generation import plain_generation
from prune_exp.model.sources import ModelSource

VERSION = 3
BATCH = 32
IDS = "ids.safetensors"


def generate_blocks(
    source: ModelSource,
    prompts: torch.Tensor,
    *,
    tokens: int,
    temperature: float,
    seed: int,
    cache_dir: Path,
    device: str = "cpu",
) -> torch.Tensor:
    """Text sampled from the dense model [blocks, tokens], once for all trials that want the same.

    Every block begins with one of `prompts` [blocks, prompt tokens]. Each batch of blocks has
    chance of its own and is kept as soon as it is written: an interrupted generation goes on, and
    ends with the text that it would have had. In bfloat16 where the device computes in it.
    """
    bfloat16 = computes_bfloat16(device)
    parts = []
    facts = (source.digest, prompts.tolist(), tokens, temperature, seed, bfloat16, device)
    folder = cache_dir / "generated" / digest_of(VERSION, *facts)
    dtype = "bfloat16" if bfloat16 else "float32"
    model = cache(lambda: load_model(source.folder, device=device, dtype=dtype))
    batches = prompts.split(BATCH)
    for number, batch in enumerate(tqdm(batches, "generate", unit="batch", leave=False)):

        def build(partial: Path, batch: Any = batch, number: int = number) -> None:
            ids = sample_blocks(model(), batch, tokens, temperature, seed * 1_000_003 + number)
            save_file({"ids": ids}, partial / IDS)

        parts.append(load_file(cached_folder(folder / str(number), build) / IDS)["ids"])
    return torch.cat(parts)


def sample_blocks(
    model: Any, prompts: torch.Tensor, tokens: int, temperature: float, seed: int
) -> torch.Tensor:
    new = tokens - prompts.shape[1]
    batch = prompts.to(model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own = model.generation_config
        model.generation_config = plain_generation(own)
        try:
            sampled = model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                min_new_tokens=new,
                max_new_tokens=new,
            )
        finally:
            model.generation_config = own
    return sampled.cpu()
