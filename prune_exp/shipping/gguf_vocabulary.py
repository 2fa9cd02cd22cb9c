"""A tokenizer in llama.cpp's words: BPE of bytes, or characters with bytes to fall back on.

llama.cpp merges the second kind by the scores of what comes out, not by a list of merges. A token's
score is the place of the first merge that makes it, so the order stays the same.
"""

from collections.abc import Sequence
from typing import Any

from prune_exp.settings.errors import SettingError
from prune_exp.text.corpus import opening_tokens
from prune_exp.text.tokenizer import BYTES, SPACE, backend_spec, falls_back, flatten_steps

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""`enum llama_token_type` in llama.h."""
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + END: "llama-bpe",
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + END: "qwen2",
}
"""What llama.cpp calls the patterns by which tokenizers split a text before they merge."""
NEVER = -1e6
"""Score of what no merge makes."""


def name_split(tokenizer: Any) -> str:
    """What llama.cpp calls a tokenizer's way of splitting text before it merges.

    Raises:
        SettingError: llama.cpp has no such tokenizer.
    """
    spec = backend_spec(tokenizer)
    fallback = None if spec is None else falls_back(spec)
    if spec is None or fallback is None:
        raise SettingError(
            "GGUF cannot hold this tokenizer: it is neither BPE of bytes nor of characters that"
            " fall back on bytes"
        )
    if not spec["model"]["merges"]:
        raise SettingError(
            "GGUF cannot hold this tokenizer: it has no merges left, and llama.cpp wants some"
        )
    if fallback:
        return "default"
    steps = flatten_steps(spec["pre_tokenizer"])
    kinds = [step["type"] for step in steps]
    name = _name_of_steps(steps)
    if name is None:
        raise SettingError(
            f"GGUF cannot hold this tokenizer: llama.cpp has no name for how it splits text"
            f" ({', '.join(kinds)})"
        )
    changes = [one["type"] for one in flatten_steps(spec.get("normalizer")) if one["type"] != "NFC"]
    if changes:
        raise SettingError(
            f"GGUF cannot hold this tokenizer: llama.cpp does not change text as it does"
            f" ({', '.join(changes)})"
        )
    if bool(spec["model"].get("ignore_merges")) != (name == "llama-bpe"):
        raise SettingError(
            "GGUF cannot hold this tokenizer: llama.cpp takes whole words before merges with the"
            " splits of Llama 3 and with no others"
        )
    return name


def _name_of_steps(steps: list[dict[str, Any]]) -> str | None:
    """What llama.cpp calls these steps before the merges; None where it has no name."""
    kinds = [step["type"] for step in steps]
    own_split = steps[-1].get("use_regex", True) if steps else False
    if kinds == ["ByteLevel"] and own_split:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and own_split:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not own_split:
        first = steps[0]
        plain = first.get("behavior") == "Isolated" and not first.get("invert")
        return SPLITS.get(first["pattern"].get("Regex")) if plain else None
    return None


def write_vocabulary(writer: Any, tokenizer: Any, rows: int, ends: Sequence[int] = ()) -> None:
    """Tells a `GGUFWriter` a tokenizer: a token for each of the embedding's rows, merges, template.

    `ends` are the tokens that end a text, by the model.

    Raises:
        SettingError: llama.cpp has no such tokenizer.
    """
    split = name_split(tokenizer)
    spec = backend_spec(tokenizer)
    assert spec is not None
    symbols, types = _list_tokens(spec, rows)
    fallback = bool(falls_back(spec))
    writer.add_tokenizer_model("llama" if fallback else "gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(symbols)
    writer.add_token_types(types)
    if fallback:
        writer.add_token_scores(_scores_of(spec["model"], rows))
        writer.add_add_space_prefix(_marks_start(spec))
    else:
        writer.add_token_merges([_join_merge(one) for one in spec["model"]["merges"]])
        writer.add_add_space_prefix(any(one.get("add_prefix_space") for one in _splits_of(spec)))
    _write_special(writer, tokenizer, ends)
    if tokenizer.chat_template:
        writer.add_chat_template(_templates_of(tokenizer.chat_template))


def _templates_of(template: str | dict[str, str]) -> str | list[dict[str, str]]:
    """One template, or several by name, as some tokenizers have one for tools."""
    if isinstance(template, str):
        return template
    return [{"name": name, "template": text} for name, text in template.items()]


def _splits_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return flatten_steps(spec.get("pre_tokenizer"))


def takes_spaces(tokenizer: Any) -> bool:
    """Whether its special tokens take the spaces after them, as those of Phi-3 do."""
    spec = backend_spec(tokenizer)
    return spec is not None and any(
        token["rstrip"] for token in spec["added_tokens"] if token["special"]
    )


def _marks_start(spec: dict[str, Any]) -> bool:
    """Whether a space is put before every text."""
    if any(one["type"] == "Prepend" for one in flatten_steps(spec.get("normalizer"))):
        return True
    return any(one.get("prepend_scheme", "never") != "never" for one in _splits_of(spec))


def _list_tokens(spec: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """A text and a type for every row of the embedding; rows without a token are unused."""
    symbols = [f"[PAD{row}]" for row in range(rows)]
    types = [UNUSED] * rows
    for symbol, row in spec["model"]["vocab"].items():
        if row < rows:
            symbols[row] = symbol
            types[row] = BYTE if symbol in BYTES and spec["model"]["byte_fallback"] else NORMAL
    for token in spec["added_tokens"]:
        row = token["id"]
        if row < rows:
            plain = token["content"].replace(SPACE, " ")
            symbols[row] = token["content"] if token["special"] else plain
            types[row] = CONTROL if token["special"] else USER_DEFINED
    unknown = spec["model"]["vocab"].get(spec["model"].get("unk_token"))
    if spec["model"].get("byte_fallback") and unknown is not None:
        types[unknown] = UNKNOWN
    return symbols, types


def _scores_of(model: dict[str, Any], rows: int) -> list[float]:
    scores = [NEVER] * rows
    place = 0
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made = model["vocab"][left + right]
        if made < rows and scores[made] == NEVER:
            scores[made] = -float(place)
            place += 1
    return scores


def _join_merge(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _write_special(writer: Any, tokenizer: Any, ends: Sequence[int]) -> None:
    """The tokens with a task, and which of them is put before every text.

    llama.cpp takes a token of its own choice for one that begins a text where none is named.
    """
    named = tokenizer.eos_token_id
    end = next(iter(ends), None) if named is None else named
    others = [one for one in ends if one != end]
    if others:
        writer.add_eot_token_id(others[0])
    for add, token in (
        (
            writer.add_bos_token_id,
            end if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        ),
        (writer.add_eos_token_id, end),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token is not None:
            add(token)
    writer.add_add_bos_token(bool(opening_tokens(tokenizer)))
    writer.add_add_eos_token(False)
