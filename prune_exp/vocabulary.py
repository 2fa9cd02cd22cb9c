"""Tokens as units: how merges build them, and a tokenizer that does with fewer.

Byte-level BPE only. A token may go when no token that stays is built from it; single bytes and
special tokens always stay, so every string can still be encoded.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.settings import SettingError

if TYPE_CHECKING:
    import torch

STRAY_BYTE = re.compile("([\udc80-\udcff])")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A byte-level BPE vocabulary, by token id."""

    symbols: dict[str, int]
    merges: tuple[tuple[int, int, int], ...]
    """(left, right, made) in the order in which they apply."""

    @property
    def removable(self) -> list[int]:
        """Ids of merged tokens, the last made first."""
        return list(dict.fromkeys(made for _, _, made in reversed(self.merges)))


def read_vocabulary(tokenizer: Any) -> Vocabulary:
    """Takes a tokenizer's vocabulary apart.

    Raises:
        SettingError: it is not byte-level BPE, so that tokens cannot be taken from it.
    """
    found = _read(tokenizer)
    if found is None:
        raise SettingError(
            "tokens can be removed from byte-level BPE tokenizers only, and this model has another;"
            " leave vocab out of pruning.units"
        )
    return found


def removable_tokens(tokenizer: Any) -> int:
    """How many tokens could go, none when the tokenizer is not byte-level BPE."""
    found = _read(tokenizer)
    return 0 if found is None else len(found.removable)


def _read(tokenizer: Any) -> Vocabulary | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    spec = json.loads(backend.to_str())
    model = spec["model"]
    byte_level = '"ByteLevel"' in json.dumps(spec.get("pre_tokenizer"))
    if model.get("type") != "BPE" or model.get("byte_fallback") or not byte_level:
        return None
    special = {token["id"] for token in spec["added_tokens"]}
    ids: dict[str, int] = model["vocab"]
    merges = (_pair(merge) for merge in model["merges"])
    made = tuple((ids[a], ids[b], ids[a + b]) for a, b in merges if ids[a + b] not in special)
    return Vocabulary(symbols=ids, merges=made)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def order_scores(scores: "torch.Tensor", vocabulary: Vocabulary) -> "torch.Tensor":
    """Scores [tokens] that let the vocabulary be cut anywhere, as distinct places in an order.

    A token counts as much as the best token built from it; equal ones go in the reverse order of
    their merges; tokens that always stay come last.
    """
    import torch

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


def trim(tokenizer: Any, removed: Sequence[int]) -> tuple[Any, list[int]]:
    """A tokenizer without some tokens, and the old ids of those it has, in the order of the new."""
    from transformers import AutoTokenizer

    gone = set(removed)
    kept = sorted(set(tokenizer.get_vocab().values()) - gone)
    new = {old: place for place, old in enumerate(kept)}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        path = Path(scratch) / "tokenizer.json"
        spec = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(_renumber(spec, new), ensure_ascii=False), encoding="utf-8")
        _renumber_config(Path(scratch) / "tokenizer_config.json", new)
        trimmed = AutoTokenizer.from_pretrained(scratch, trust_remote_code=False)
    trimmed.name_or_path = tokenizer.name_or_path
    return trimmed, kept


def _renumber(spec: dict[str, Any], new: dict[int, int]) -> dict[str, Any]:
    model = spec["model"]
    symbols = {symbol: new[i] for symbol, i in model["vocab"].items() if i in new}
    merges = [list(_pair(merge)) for merge in model["merges"]]
    model["vocab"] = symbols
    model["merges"] = [
        [a, b] for a, b in merges if a in symbols and b in symbols and a + b in symbols
    ]
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
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


def _renumber_config(path: Path, new: dict[int, int]) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    named = config.get("added_tokens_decoder")
    if named:
        config["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in named.items()}
        path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")


def text_bytes(tokenizer: Any, ids: Iterable[int]) -> bytes:
    """The bytes that tokens of a byte-level tokenizer stand for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    value = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    symbols = "".join(tokenizer.convert_ids_to_tokens(list(ids)))
    return bytes(value[symbol] for symbol in symbols)


def encode_bytes(tokenizer: Any, data: bytes) -> list[int]:
    """Token ids of bytes that may begin or end inside a character."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbol, ids = bytes_to_unicode(), []
    for part in STRAY_BYTE.split(data.decode("utf-8", errors="surrogateescape")):
        if STRAY_BYTE.fullmatch(part):
            ids.append(tokenizer.convert_tokens_to_ids(symbol[ord(part) - 0xDC00]))
        elif part:
            ids += tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def reencoder(old: Any, new: Any) -> Callable[["torch.Tensor"], tuple[int, "torch.Tensor"]]:
    """Turns ids [tokens] of one byte-level tokenizer into another's, for the same bytes.

    The function returns how many ids the first one became, and all ids.
    """
    import torch

    def reencode(block: "torch.Tensor") -> tuple[int, "torch.Tensor"]:
        data = (text_bytes(old, part) for part in (block[:1].tolist(), block[1:].tolist()))
        first, rest = (encode_bytes(new, part) for part in data)
        return len(first), torch.tensor(first + rest)

    return reencode
