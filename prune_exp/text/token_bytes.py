"""Tokens to the bytes they stand for, and back, also inside a character."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from prune_exp.text.tokenizer import BYTES, SPACE, backend_spec, falls_back, flatten_steps

Reencode = Callable[[torch.Tensor], torch.Tensor]
"""One tokenizer's ids [tokens] to another's, for the same bytes."""
NO_SPACE = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
"""How pre-tokenizers put no space before a text."""
STRAY_BYTE = re.compile("([\udc80-\udcff])")


@dataclass(frozen=True, kw_only=True)
class Recoder:
    """What a BPE tokenizer's tokens stand for, as bytes."""

    bytes_of: Callable[[Iterable[int]], bytes]
    """The bytes that tokens stand for; special ones stand for their names, and ids without a token
    for nothing."""
    encode: Callable[[str], list[int]]
    """Tokens of text that stands inside other text: nothing is put before it."""
    byte_ids: tuple[int, ...]
    """The token of each single byte."""

    def ids_of(self, data: bytes) -> list[int]:
        """Token ids of bytes that may begin or end inside a character."""
        ids: list[int] = []
        for part in STRAY_BYTE.split(data.decode("utf-8", errors="surrogateescape")):
            if STRAY_BYTE.fullmatch(part):
                ids.append(self.byte_ids[ord(part) - 0xDC00])
            elif part:
                ids += self.encode(part)
        return ids


def recoder_of(tokenizer: Any) -> Recoder:
    """A recoder for a tokenizer that `vocabulary.read_vocabulary` can take apart."""
    spec = backend_spec(tokenizer)
    assert spec is not None
    fallback = falls_back(spec)
    assert fallback is not None, "tokens can be taken from it"
    return _with_fallback(tokenizer, spec) if fallback else _byte_level(tokenizer, spec)


def _byte_level(tokenizer: Any, spec: dict[str, Any]) -> Recoder:
    symbol = bytes_to_unicode()
    value = {symbol: byte for byte, symbol in symbol.items()}
    added = {token["content"] for token in spec["added_tokens"]}  # as they are in the text

    def bytes_of_one(token: str | None) -> bytes:
        if token is None or token in added:
            return (token or "").encode()
        return bytes(value[one] for one in token)

    def bytes_of(ids: Iterable[int]) -> bytes:
        return b"".join(map(bytes_of_one, tokenizer.convert_ids_to_tokens(list(ids))))

    return Recoder(
        bytes_of=bytes_of,
        encode=_make_encoder(spec),
        byte_ids=tuple(tokenizer.convert_tokens_to_ids([symbol[i] for i in range(256)])),
    )


def _with_fallback(tokenizer: Any, spec: dict[str, Any]) -> Recoder:
    marked = any(one.get("content") == " " for one in flatten_steps(spec["decoder"])) or any(
        one["type"] == "Metaspace" for one in flatten_steps(spec["decoder"])
    )

    names = {token["content"] for token in spec["added_tokens"] if token["special"]}

    def bytes_of_one(symbol: str | None) -> bytes:
        if symbol is None or symbol in names:
            return (symbol or "").encode()
        if symbol in BYTES:
            return bytes([BYTES[symbol]])
        return (symbol.replace(SPACE, " ") if marked else symbol).encode()

    def bytes_of(ids: Iterable[int]) -> bytes:
        return b"".join(map(bytes_of_one, tokenizer.convert_ids_to_tokens(list(ids))))

    return Recoder(
        bytes_of=bytes_of,
        encode=_make_encoder(spec),
        byte_ids=tuple(tokenizer.convert_tokens_to_ids(list(BYTES))),
    )


def _make_encoder(spec: dict[str, Any]) -> Callable[[str], list[int]]:
    """Tokens of text that stands inside other text."""
    plain = Tokenizer.from_str(json.dumps(_within_text(spec)))
    return lambda text: plain.encode(text, add_special_tokens=False).ids


def _within_text(spec: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer without the space that some put before every text, and without a limit."""
    normalizers = [one for one in flatten_steps(spec.get("normalizer")) if one["type"] != "Prepend"]
    steps = [
        one | NO_SPACE.get(one["type"], {}) for one in flatten_steps(spec.get("pre_tokenizer"))
    ]
    return spec | {
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
    }


def first_pieces(old: Any, new: Any, kept: Sequence[int], size: int) -> torch.Tensor:
    """Where each of `size` old tokens begins in a tokenizer that has only the `kept` ones [size].

    A kept token is itself; one that is gone begins with the first token that its bytes become. A
    model that is asked what follows means both (arXiv:2512.14954). Tokens without a name have a
    place beyond the last one, `len(kept)`.
    """
    theirs = recoder_of(old)
    ours = recoder_of(new)
    place = torch.full((size,), len(kept))
    place[torch.tensor(kept)] = torch.arange(len(kept))
    for token in sorted(set(old.get_vocab().values()) - set(kept)):
        if token < size and (ids := ours.ids_of(theirs.bytes_of([token]))):
            place[token] = ids[0]
    return place


def make_reencoder(old: Any, new: Any) -> Reencode:
    """Turns ids [tokens] of one tokenizer into another's, for the same bytes."""
    theirs = recoder_of(old)
    ours = recoder_of(new)

    def reencode(ids: torch.Tensor) -> torch.Tensor:
        return torch.tensor(ours.ids_of(theirs.bytes_of(ids.tolist())), dtype=torch.long)

    return reencode


def reencode_blocks(
    blocks: torch.Tensor, reencode: Reencode
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every block of [blocks, tokens] in other ids: its first token's, and those of the rest."""
    return [(reencode(block[:1]), reencode(block[1:])) for block in blocks]
