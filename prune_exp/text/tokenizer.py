"""Tokens as units: how merges build them, and a tokenizer that does with fewer.

BPE whose symbols are bytes (GPT-2's), or characters with bytes to fall back on (SentencePiece's). A
token may go when no token that stays is built from it; single bytes, special tokens and those of
the chat template always stay, so every string can still be encoded, and one whose tokens all stay
is encoded as before.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from prune_exp.settings.errors import SettingError

SPACE = "\u2581"
"""What stands for a space in SentencePiece's symbols."""
BYTES = {f"<0x{value:02X}>": value for value in range(256)}
"""SentencePiece's symbols of single bytes."""
STEPS = ("normalizer", "pre_tokenizer", "decoder")
REVERSIBLE = {"Prepend", "Replace", "Split", "Metaspace", "ByteFallback", "Fuse", "Strip"}
"""Steps around such a BPE that mark spaces and no more."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A BPE vocabulary, by token id."""

    symbols: dict[str, int]
    merges: tuple[tuple[int, int, int], ...]
    """(left, right, made), none before one that makes its left or right."""
    characters: tuple[int, ...] = ()
    """Single characters that bytes can stand in for."""
    needed: frozenset[int] = frozenset()
    """Tokens of the chat template, with what they are built from; these always stay."""

    @property
    def removable(self) -> list[int]:
        """Ids of merged tokens, the last made first, then of characters."""
        merged = dict.fromkeys(made for _, _, made in reversed(self.merges))
        return [one for one in (*merged, *reversed(self.characters)) if one not in self.needed]

    def within(self, rows: int) -> "Vocabulary":
        """Without the tokens for which an embedding of so many rows has none."""
        return Vocabulary(
            symbols={symbol: i for symbol, i in self.symbols.items() if i < rows},
            merges=tuple(merge for merge in self.merges if max(merge) < rows),
            characters=tuple(i for i in self.characters if i < rows),
            needed=self.needed,
        )


def read_vocabulary(tokenizer: Any) -> Vocabulary:
    """Takes a tokenizer's vocabulary apart.

    Raises:
        SettingError: tokens cannot be taken from it.
    """
    found = _take_apart(tokenizer)
    if found is None:
        raise SettingError(
            "tokens can be removed from BPE tokenizers only that know every byte, and this model"
            " has another; leave vocab out of pruning.units"
        )
    return found


def count_removable_tokens(tokenizer: Any, rows: int) -> int:
    """How many tokens of an embedding's `rows` could go, none with tokenizers of another kind."""
    found = _take_apart(tokenizer)
    return 0 if found is None else len(found.within(rows).removable)


def backend_spec(tokenizer: Any) -> dict[str, Any] | None:
    """A fast tokenizer's own description; None for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else json.loads(backend.to_str())


def falls_back(spec: dict[str, Any]) -> bool | None:
    """Whether symbols are characters with bytes to fall back on; False where they are bytes.

    None for tokenizers from which tokens cannot be taken.
    """
    model = spec["model"]
    if model.get("type") != "BPE" or model.get("end_of_word_suffix"):
        return None
    if not model.get("byte_fallback"):
        return False if '"ByteLevel"' in json.dumps(spec.get("pre_tokenizer")) else None
    kinds = {one["type"] for name in STEPS for one in flatten_steps(spec.get(name))}
    whole = set(BYTES) <= set(model["vocab"]) and "ByteFallback" in kinds
    return True if whole and kinds <= REVERSIBLE else None


def flatten_steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder as a list of plain ones."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    (inner,) = (value for value in step.values() if isinstance(value, list))
    return [one for each in inner for one in flatten_steps(each)]


def _take_apart(tokenizer: Any) -> Vocabulary | None:
    spec = backend_spec(tokenizer)
    fallback = None if spec is None else falls_back(spec)
    if spec is None or fallback is None:
        return None
    model = spec["model"]
    ids: dict[str, int] = model["vocab"]
    special = {token["id"] for token in spec["added_tokens"]}
    pairs = (_split_merge(merge) for merge in model["merges"])
    merges = order_merges([(ids[a], ids[b], ids[a + b]) for a, b in pairs], ids)
    made = tuple(merge for merge in merges if merge[2] not in special)
    characters = (
        i for symbol, i in ids.items() if len(symbol) == 1 and symbol != SPACE and i not in special
    )
    return Vocabulary(
        symbols=ids | {token["content"]: token["id"] for token in spec["added_tokens"]},
        merges=made,
        characters=tuple(characters) if fallback else (),
        needed=_list_parts(list_template_tokens(tokenizer), made),
    )


def list_template_tokens(tokenizer: Any) -> frozenset[int]:
    """The tokens that a tokenizer's chat template writes around what is said, if it has one.

    Text for calibration hardly has some of them, such as the names of roles.
    """
    if not getattr(tokenizer, "chat_template", None):
        return frozenset()
    found: set[int] = set()
    for roles in (("user",), ("user", "assistant", "user"), ("system", "user")):
        turns = [{"role": role, "content": "a"} for role in roles]
        try:
            text = tokenizer.apply_chat_template(
                turns,
                chat_template=_write_every_day(tokenizer.chat_template),
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception:  # templates refuse some roles in words of their own
            continue
        found.update(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return frozenset(found)


def _write_every_day(template: Any) -> str | None:
    """A template that tells the day, made to tell days of all months and years instead: what stays
    is no matter of when that was asked. None where the template is as it should be."""
    if not isinstance(template, str) or "strftime_now" not in template:
        return None
    months = [date(2026, month, 28) for month in range(1, 13)]
    told = [day.strftime(form) for form in ("%d %b %Y", "%B %d, %Y", "%Y-%m-%d") for day in months]
    told += [date(2020 + place, 1, place + 1).strftime("%d %b %Y") for place in range(31)]
    return f"{{% macro strftime_now(form) %}}{'; '.join(told)}{{% endmacro %}}{template}"


def _list_parts(tokens: frozenset[int], merges: Sequence[tuple[int, int, int]]) -> frozenset[int]:
    """Tokens and all that they are built from; a merge comes after those of its parts."""
    found = set(tokens)
    for left, right, made in reversed(merges):
        if made in found:
            found |= {left, right}
    return frozenset(found)


def order_merges(
    merges: list[tuple[int, int, int]], ids: dict[str, int]
) -> list[tuple[int, int, int]]:
    """Merges in order of rank, each token's after those of all that it is built from.

    Where several merges make one token, a part of it may be made by a later merge.
    """
    length = {i: len(symbol) for symbol, i in ids.items()}
    last: dict[int, int] = {}
    ranked = sorted(enumerate(merges), key=lambda one: length[one[1][2]])
    for rank, (left, right, made) in ranked:
        last[made] = max(rank, last.get(left, -1), last.get(right, -1), last.get(made, -1))
    return sorted(merges, key=lambda merge: (last[merge[2]], length[merge[2]]))


def _split_merge(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def order_scores(scores: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
    """Scores [tokens] that let the vocabulary be cut anywhere, as distinct places in an order.

    A token counts as much as the best token built from it; equal ones go in the reverse order of
    their merges; tokens that always stay come last. Rows without a token go first; tokens without
    a row, which some tokenizers have, are left out.
    """
    vocabulary = vocabulary.within(len(scores))
    best = scores.double().tolist()
    for left, right, made in reversed(vocabulary.merges):
        best[left] = max(best[left], best[made])
        best[right] = max(best[right], best[made])
    units = torch.tensor(vocabulary.removable)
    unnamed = torch.ones(len(scores), dtype=torch.bool)
    unnamed[list(vocabulary.symbols.values())] = False
    place = torch.full((len(scores),), float(len(scores)), dtype=torch.float64)
    order = torch.tensor(best, dtype=torch.float64)[units].argsort(stable=True)
    place[units[order]] = torch.arange(len(units)).double()
    place[unnamed] = -1.0
    return place


def trim_tokenizer(tokenizer: Any, removed: Sequence[int], rows: int) -> tuple[Any, list[int]]:
    """A tokenizer without some tokens, and the rows of the embedding that are left, in order.

    `rows` is how many the embedding has: tokens beyond them, which no model was ever fed, go too.
    A token's new id is its row's new place, also where some rows have no token.
    """
    gone = set(removed)
    kept = [old for old in range(rows) if old not in gone]
    new = {old: place for place, old in enumerate(kept)}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        path = Path(scratch) / "tokenizer.json"
        spec = json.loads(path.read_text(encoding="utf-8"))
        lost = {one["content"] for one in spec["added_tokens"] if one["id"] not in new}
        path.write_text(json.dumps(_renumber_spec(spec, new), ensure_ascii=False), encoding="utf-8")
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            _renumber_config(Path(scratch) / name, new, lost)
        trimmed = AutoTokenizer.from_pretrained(scratch, trust_remote_code=False)
    trimmed.name_or_path = tokenizer.name_or_path
    return trimmed, kept


def _renumber_spec(spec: dict[str, Any], new: dict[int, int]) -> dict[str, Any]:
    model = spec["model"]
    symbols = {symbol: new[i] for symbol, i in model["vocab"].items() if i in new}
    merges = [list(_split_merge(merge)) for merge in model["merges"]]
    model["vocab"] = symbols
    model["merges"] = [
        [a, b] for a, b in merges if a in symbols and b in symbols and a + b in symbols
    ]
    spec["added_tokens"] = [
        token | {"id": new[token["id"]]} for token in spec["added_tokens"] if token["id"] in new
    ]
    padding = spec.get("padding")
    if padding:
        place = new.get(padding["pad_id"])
        spec["padding"] = None if place is None else padding | {"pad_id": place}
    if spec.get("post_processor"):
        _renumber_processor(spec["post_processor"], new)
    return spec


def _renumber_processor(node: dict[str, Any], new: dict[int, int]) -> None:
    for inner in node.get("processors", []):
        _renumber_processor(inner, new)
    specials = node.get("special_tokens", {})
    for special in specials.values() if isinstance(specials, dict) else []:
        special["ids"] = [new[i] for i in special["ids"]]
    for name in ("sep", "cls"):
        if name in node:
            node[name] = [node[name][0], new[node[name][1]]]


def _renumber_config(path: Path, new: dict[int, int], lost: set[str]) -> None:
    """Renumbers the tokens that a file names; those that are lost would be added anew by it."""
    if not path.is_file():
        return
    config: dict[str, Any] = {
        name: [one for one in value if _text_of(one) not in lost]
        if isinstance(value, list)
        else value
        for name, value in json.loads(path.read_text(encoding="utf-8")).items()
        if _text_of(value) not in lost
    }
    named = config.get("added_tokens_decoder")
    if named:
        config["added_tokens_decoder"] = {
            str(new[int(i)]): token for i, token in named.items() if int(i) in new
        }
    path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")


def _text_of(value: Any) -> str | None:
    """A token's text in a tokenizer's config, which has it plain or with how it is matched."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None
