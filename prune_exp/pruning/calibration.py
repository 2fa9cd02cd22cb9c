"""One pass over calibration text: what every voter needs to know about every unit.

Expensive once, kept on disk by digest; voting afterwards is quick.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from prune_exp.machine.cache import cached_folder, digest_of
from prune_exp.machine.device import cache_key
from prune_exp.model.architectures import (
    DecoderLayer,
    channel_norms_sq,
    head_norms_sq,
    layers_of,
    weight_matrix,
)
from prune_exp.model.offload import at_hand
from prune_exp.pruning.layer_stream import LayerStream, watch_modules
from prune_exp.pruning.moments import INVERSE_DAMPING, OF_SILENT, Moments
from prune_exp.pruning.statistics import Statistics, tensors_of
from prune_exp.pruning.taylor import taylor_effects
from prune_exp.text.corpus import Corpus, token_frequency

VERSION = 7


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is kept of one model on one text."""

    statistics: Statistics
    stream: Path
    """Folder with the residual stream before every layer and after the last, in bfloat16."""

    def states_at(self, index: int, blocks: int | None = None) -> torch.Tensor:
        """The dense residual stream before layer `index` [blocks, tokens, hidden].

        With `blocks` only the first so many blocks of the text are read.
        """
        with safe_open(self.stream / f"{index}.safetensors", "pt") as file:
            return file.get_slice("hidden")[:blocks].float()


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """How closely the calibration text is read."""

    voting_blocks: int
    """Blocks that the voters see; all others give the refit its residual stream."""
    gradient_blocks: int
    """Blocks that also get a backward pass."""
    dtype: str = "float32"
    """In what blocks of which nothing else is asked go through the model: float32 or bfloat16."""


def calibrate_model(
    model: Any,
    model_digest: str,
    corpus: Corpus,
    tokenizer: Any,
    reading: ReadingSettings,
    *,
    cache_dir: Path,
) -> Calibration:
    """Returns what `model` makes of the calibration text, from disk when it is there.

    Tokens are counted in all documents that calibrate, everything else comes from the blocks.
    """
    text = corpus.calibration
    texts = (
        text.digest,
        *text.ids.shape,
        digest_of([(part.documents, part.share) for part in corpus.parts]),
    )
    device = cache_key(model.device)
    damping = (INVERSE_DAMPING, OF_SILENT)
    key = digest_of(VERSION, model_digest, texts, asdict(reading), *damping, *device)

    def build(folder: Path) -> None:
        def keep(index: int, hidden: torch.Tensor) -> None:
            save_file({"hidden": hidden.bfloat16()}, folder / f"{index}.safetensors")

        frequency = token_frequency(corpus.parts, tokenizer, model.config.vocab_size)
        statistics = compute_statistics(model, text.ids, frequency, reading, keep)
        _check_numbers(statistics)
        save_file(tensors_of(statistics), folder / "statistics.safetensors")

    folder = cached_folder(cache_dir / "calibration" / key, build)
    tensors: dict[str, Any] = load_file(folder / "statistics.safetensors")
    statistics = Statistics(**tensors)
    return Calibration(statistics=statistics, stream=folder)


def _check_numbers(statistics: Statistics) -> None:
    """Raises ArithmeticError for what would be kept, and voted on, for good."""
    bad = [name for name, one in tensors_of(statistics).items() if bool(one.isnan().any())]
    if bad:
        raise ArithmeticError(
            f"the dense model gave no numbers on the calibration text ({', '.join(bad)}); nothing"
            " is kept of it"
        )


def compute_statistics(
    model: Any,
    ids: torch.Tensor,
    frequency: torch.Tensor,
    reading: ReadingSettings,
    keep: Callable[[int, torch.Tensor], None],
) -> Statistics:
    """Computes the statistics of `model` on token ids [blocks, tokens].

    `frequency` is the share of each token in the text at large [vocab]. `keep` is given the
    residual stream before each layer and after the last [blocks, tokens, hidden].
    """
    calls = LayerStream(model, ids)
    hidden = calls.hidden
    voting = reading.voting_blocks
    exact = max(voting, reading.gradient_blocks)
    rows = []
    states = []
    keep(0, hidden)
    for index, layer in enumerate(tqdm(layers_of(model), "calibrate", unit="layer")):
        states.append(hidden[: reading.gradient_blocks].to("cpu", copy=True))
        with at_hand(layer.module):
            row, seen = _read_layer(calls, layer, index, hidden[:voting])
            rows.append(row)
            others = calls.run(layer, index, hidden[voting:exact])
            unseen = calls.run(layer, index, hidden[exact:], dtype=reading.dtype)
        hidden = torch.cat([seen, others, unseen])
        keep(index + 1, hidden)
    states.append(hidden[: reading.gradient_blocks].to("cpu", copy=True))
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    effects = taylor_effects(model, calls, ids[: reading.gradient_blocks], states)
    tensors: dict[str, Any] = stacked | effects
    return Statistics(
        **tensors,
        kv_heads=torch.tensor(layers_of(model)[0].heads.groups),
        vocab_norm_sq=model.get_input_embeddings().weight.square().sum(1),
        vocab_frequency=frequency,
    )


def _read_layer(
    calls: LayerStream, layer: DecoderLayer, index: int, hidden: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A layer's row of the statistics, and its output [blocks, tokens, hidden]."""
    mlp = Moments(layer.width, hidden.device)
    heads = Moments(layer.heads.queries * layer.heads.dim, hidden.device)
    with watch_modules({layer.mlp_out: mlp.add, layer.heads_out: heads.add}, {}):
        output = calls.run(layer, index, hidden)
    row = (
        _weight_norms(layer)
        | mlp.summary("mlp")
        | _per_head(heads.summary("heads"), layer.heads.dim)
        | {
            "layers_cosine_distance": _cosine_distance(hidden, output),
            "layers_input_norm_sq": hidden.square().sum(-1).mean(),
        }
    )
    return row, output


def _per_head(summary: dict[str, torch.Tensor], dim: int) -> dict[str, torch.Tensor]:
    return {name: value.view(-1, dim) for name, value in summary.items()}


def _weight_norms(layer: DecoderLayer) -> dict[str, torch.Tensor]:
    heads = layer.heads
    rows = head_norms_sq(layer)
    down = weight_matrix(layer.mlp_out).square().sum(0)
    out = weight_matrix(layer.heads_out).square().sum(0).view(-1, heads.dim)
    shared = (rows["keys"] + rows["values"]).repeat_interleave(heads.per_group) / heads.per_group
    return {
        "mlp_down_norm_sq": down,
        "mlp_weight_norm": (channel_norms_sq(layer) + down).sqrt(),
        "heads_out_norm_sq": out,
        "heads_weight_norm": (rows["queries"] + out.sum(1) + shared).sqrt(),
    }


def _cosine_distance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return 1 - torch.cosine_similarity(before, after, dim=-1).mean()
