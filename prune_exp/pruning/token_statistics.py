"""What is known of a vocabulary's tokens: expected by the model, made in this order, written so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from prune_exp.machine.cache import cached_folder
from prune_exp.model.architectures import final_norm_of, head_of, layers_of
from prune_exp.model.next_tokens import NextTokens, split_tokens
from prune_exp.pruning.calibration import Calibration
from prune_exp.pruning.statistics import TokenStatistics
from prune_exp.text.scripts import script_of
from prune_exp.text.token_bytes import Recoder, recoder_of
from prune_exp.text.tokenizer import Vocabulary, read_vocabulary

VERSION = 1
FILE = "expected.safetensors"


def describe_tokens(model: Any, calibration: Calibration, tokenizer: Any) -> TokenStatistics:
    """The token statistics of a dense `model`, kept beside its calibration."""
    size = model.config.vocab_size
    vocabulary = read_vocabulary(tokenizer).within(size)
    return TokenStatistics(
        expected=_expected_of(model, calibration),
        place=merge_places(vocabulary, size),
        script=number_scripts(vocabulary, tokenizer, size),
    )


def _expected_of(model: Any, calibration: Calibration) -> torch.Tensor:
    def build(folder: Path) -> None:
        states = calibration.states_at(len(layers_of(model)))
        save_file({"expected": expected_probability(model, states)}, folder / FILE)

    cache = calibration.stream.parent / f"{calibration.stream.name}-expected-{VERSION}"
    return load_file(cached_folder(cache, build) / FILE)["expected"]


def expected_probability(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Mean next-token probability [vocab] after the last layer's outputs [blocks, tokens, hidden].

    A token that the text could have needed has some, also where the text did without it.
    """
    head = head_of(model).weight
    total = torch.zeros(len(head), dtype=torch.float64)
    norm = final_norm_of(model)
    for block in tqdm(states, "expected tokens", unit="block"):
        with torch.no_grad():
            after = NextTokens(hidden=norm(block.to(head.device)), head=head)
            for rows in split_tokens(len(block)):
                total += after.log_probs(rows).exp_().sum(0).double().cpu()
    return (total / (states.shape[0] * states.shape[1])).float()


def merge_places(vocabulary: Vocabulary, size: int) -> torch.Tensor:
    """Each token's place in the order of the merges, characters that bytes stand in for last."""
    characters = set(vocabulary.characters)
    merged = [token for token in vocabulary.removable if token not in characters]
    place = torch.full((size,), -1)
    order = [*reversed(merged), *vocabulary.characters]
    place[order] = torch.arange(len(order))
    return place


def count_scripts(tokenizer: Any, removed: Sequence[int], size: int) -> dict[str, tuple[int, int]]:
    """Tokens that may go of each script, of `size` in all, and how many of them stay."""
    counts: dict[str, list[int]] = {}
    gone = set(removed)
    recoder = recoder_of(tokenizer)
    for token in read_vocabulary(tokenizer).within(size).removable:
        count = counts.setdefault(_script_of_token(recoder, token), [0, 0])
        count[0] += 1
        count[1] += token not in gone
    return {name: (before, left) for name, (before, left) in sorted(counts.items())}


def _script_of_token(recoder: Recoder, token: int) -> str:
    return script_of(recoder.bytes_of([token]).decode("utf-8", errors="ignore"))


def number_scripts(vocabulary: Vocabulary, tokenizer: Any, size: int) -> torch.Tensor:
    """Each token's script as a number; tokens that nobody names are of none."""
    recoder = recoder_of(tokenizer)
    numbers: dict[str, int] = {}
    found = torch.full((size,), -1)
    for token in vocabulary.removable:
        script = _script_of_token(recoder, token)
        found[token] = numbers.setdefault(script, len(numbers))
    return found
