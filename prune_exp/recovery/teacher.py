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
from prune_exp.recovery.readings import Reading

VERSION = 2
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

    def states(self, reading: Reading, wanted: list[int]) -> torch.Tensor:
        """Hidden states for some blocks' tokens, those of the student -> [wanted, tokens, hidden].

        After a token that ends one of the dense model's, it is the state in which the dense model
        has read the text up to there in its own tokens.
        """
        found = []
        for index in wanted:
            shard, place = divmod(index, SHARD_BLOCKS)
            first = shard * SHARD_BLOCKS
            dense_ids = reading.dense[first : first + SHARD_BLOCKS]
            places = reading.places[first : first + SHARD_BLOCKS]
            with safe_open(self._shard(dense_ids, places) / STATES, framework="pt") as file:
                found.append(file.get_slice("hidden")[place])
        return torch.stack(found).to(self.head.device)

    def _shard(self, dense_ids: tuple[tuple[int, ...], ...], places: torch.Tensor) -> Path:
        facts = (self.source.digest, self.dtype, dense_ids, places.tolist())
        key = digest_of(VERSION, *facts, *cache_key(self.head.device))
        return cached_folder(
            self.cache_dir / "teacher" / key,
            lambda folder: self._build(dense_ids, places, folder),
        )

    def _build(
        self, dense_ids: tuple[tuple[int, ...], ...], places: torch.Tensor, folder: Path
    ) -> None:
        model = decoder_of(load_model(self.source.folder, device=self.head.device.type))
        states = []
        read = zip(dense_ids, places.to(model.device), strict=True)
        with torch.no_grad(), autocast(model.device, self.dtype):
            for block, at in tqdm(read, "dense states", len(dense_ids), unit="block", leave=False):
                ids = torch.tensor([block], device=model.device)
                hidden = model(input_ids=ids, use_cache=False).last_hidden_state[0]
                states.append(hidden[at].bfloat16())
        save_file({"hidden": torch.stack(states)}, folder / STATES)
