"""What the dense model makes of the text that a pruned one trains on, kept on disk."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from prune_exp.machine.cache import cached_folder, digest_of
from prune_exp.machine.device import autocast, cache_key
from prune_exp.model.architectures import decoder_of
from prune_exp.model.loading import load_model
from prune_exp.model.next_tokens import MergedTokens, NextTokens
from prune_exp.model.sources import ModelSource

VERSION = 1
SHARD_BLOCKS = 32
STATES = "states.safetensors"


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The dense model's final hidden states, computed a shard of blocks at a time when needed.

    Hidden states and not logits are kept: they are far fewer numbers a token, and one product
    with the head gives all logits back. A model is
    loaded only for shards that the cache lacks, and dropped again.
    """

    source: ModelSource
    head: torch.Tensor
    """The dense model's head [dense vocab, hidden]."""
    kept: torch.Tensor | None
    """The dense ids of the student's tokens [vocab]; None when they are the same."""
    merged: MergedTokens | None
    """Where the student's tokens are fewer: the probability of one that is gone is counted for the
    student's token that begins it."""
    dtype: str
    cache_dir: Path

    def expect(self, states: torch.Tensor, certain: torch.Tensor | None) -> NextTokens:
        """What the dense model expects by its final hidden states [tokens, hidden].

        `certain` [tokens] is what follows for certain, -1 where that is open.
        """
        return NextTokens(hidden=states, head=self.head, merged=self.merged, certain=certain)

    def states(self, blocks: torch.Tensor, wanted: list[int]) -> torch.Tensor:
        """Hidden states of some of the `blocks` [blocks, tokens] -> [wanted, tokens, hidden]."""
        found = []
        for index in wanted:
            shard, place = divmod(index, SHARD_BLOCKS)
            ids = blocks[shard * SHARD_BLOCKS : (shard + 1) * SHARD_BLOCKS]
            with safe_open(self._shard(ids) / STATES, framework="pt") as file:
                found.append(file.get_slice("hidden")[place])
        return torch.stack(found).to(self.head.device)

    def _shard(self, ids: torch.Tensor) -> Path:
        dense_ids = ids if self.kept is None else self.kept[ids]
        facts = (self.source.digest, self.dtype, dense_ids.tolist())
        key = digest_of(VERSION, *facts, *cache_key(self.head.device))
        return cached_folder(
            self.cache_dir / "teacher" / key, lambda folder: self._build(dense_ids, folder)
        )

    def _build(self, dense_ids: torch.Tensor, folder: Path) -> None:
        model = decoder_of(load_model(self.source.folder, device=self.head.device.type))
        states = []
        dense_ids = dense_ids.to(model.device)
        with torch.no_grad(), autocast(model.device, self.dtype):
            for block in tqdm(dense_ids, "dense states", unit="block", leave=False):
                hidden = model(input_ids=block[None], use_cache=False).last_hidden_state[0]
                states.append(hidden.bfloat16())
        save_file({"hidden": torch.stack(states)}, folder / STATES)
