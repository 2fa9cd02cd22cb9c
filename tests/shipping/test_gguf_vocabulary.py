"""Tokenizers in llama.cpp's words."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prune_exp.settings.errors import SettingError
from prune_exp.shipping.gguf_file import PHI3, name_for_readers
from prune_exp.shipping.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    name_split,
    takes_spaces,
    write_vocabulary,
)
from prune_exp.text.tokenizer import read_vocabulary, trim_tokenizer
from support.tokenizers import (
    KINDS,
    WORDS,
    make_bpe_tokenizer,
    make_fallback_tokenizer,
    make_tokenizer,
    make_tokenizer_like,
)


class Notes:
    """A writer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda value: self.told.update({name.removeprefix("add_"): value})


def told_of(tokenizer: Any, rows: int) -> dict[str, Any]:
    writer = Notes()
    write_vocabulary(writer, tokenizer, rows)
    return writer.told


def test_bpe_of_bytes_with_its_merges() -> None:
    tokenizer = make_bpe_tokenizer(300)
    tokenizer.chat_template = "{{ messages[0].content }}"
    told = told_of(tokenizer, 302)
    assert (told["tokenizer_model"], told["tokenizer_pre"]) == ("gpt2", "gpt-2")
    assert told["token_list"][:2] == ["<end>", "!"]
    assert told["token_list"][300:] == ["[PAD300]", "[PAD301]"]
    assert told["token_types"] == [CONTROL, *[NORMAL] * 299, UNUSED, UNUSED]
    assert len(told["token_merges"]) == 300 - 257
    assert all(len(one.split(" ")) == 2 for one in told["token_merges"])
    assert told["eos_token_id"] == told["bos_token_id"] == 0
    assert told["add_bos_token"] is False
    assert told["chat_template"] == "{{ messages[0].content }}"


def test_several_templates_are_told_by_name(tmp_path: Path) -> None:
    """With the real writer, which takes one text or a list of named ones."""
    import gguf

    tokenizer = make_bpe_tokenizer(300)
    tokenizer.chat_template = {"default": "{{ a }}", "tool_use": "{{ b }}"}
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    write_vocabulary(writer, tokenizer, 302)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.chat_template"].contents() == "{{ a }}"
    assert fields["tokenizer.chat_template.tool_use"].contents() == "{{ b }}"


def test_a_text_ends_as_the_model_says_where_its_tokenizer_does_not() -> None:
    tokenizer = make_bpe_tokenizer(300)
    tokenizer.eos_token = None
    writer = Notes()
    write_vocabulary(writer, tokenizer, 302, [7])
    assert writer.told["eos_token_id"] == 7
    assert "eot_token_id" not in writer.told
    tokenizer.eos_token = "<end>"
    write_vocabulary(writer, tokenizer, 302, [7])
    assert (writer.told["eos_token_id"], writer.told["eot_token_id"]) == (0, 7)


def test_a_tokenizer_that_begins_no_text_names_a_token_all_the_same() -> None:
    """llama.cpp would take whichever token has the number 11."""
    tokenizer = make_bpe_tokenizer(300)
    tokenizer.bos_token = None
    told = told_of(tokenizer, 302)
    assert told["bos_token_id"] == told["eos_token_id"] == 0
    assert told["add_bos_token"] is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "does not change text as it does \\(Lowercase"),
        ({"ignore_merges": True}, "whole words before merges"),
    ],
)
def test_what_llamacpp_would_not_do_is_refused(change: dict[str, Any], said: str) -> None:
    tokenizer = remade(make_bpe_tokenizer(300), change)
    with pytest.raises(SettingError, match=said):
        name_split(tokenizer)


def test_text_in_its_composed_form_is_let_through() -> None:
    assert name_split(remade(make_bpe_tokenizer(300), {"normalizer": {"type": "NFC"}})) == "gpt-2"


def remade(tokenizer: Any, change: dict[str, Any]) -> Any:
    """A tokenizer with something else in its description."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    for name, value in change.items():
        place = spec["model"] if name in spec["model"] else spec
        place[name] = value
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)), eos_token="<end>"
    )


@pytest.mark.parametrize("rstrip", [True, False])
def test_spaces_that_special_tokens_take_are_told_by_the_name(rstrip: bool) -> None:
    """llama.cpp looks for phi-3 in it, in both directions."""
    from tokenizers import AddedToken

    tokenizer = make_bpe_tokenizer(300)
    tokenizer.add_tokens([AddedToken("<|user|>", special=True, rstrip=rstrip)])
    assert takes_spaces(tokenizer) is rstrip
    for name in ("assistant", "my-Phi-3", "phi3-mini"):
        assert bool(PHI3.search(name_for_readers(name, rstrip))) is rstrip


def merge_by_scores(text: str, told: dict[str, Any]) -> list[int]:
    """How llama.cpp merges by scores: the pair whose token has the highest, the first of equals."""
    ids = {symbol: i for i, symbol in enumerate(told["token_list"])}
    parts = list(text.replace(" ", "\u2581"))
    while True:
        pairs = [a + b for a, b in pairwise(parts)]
        scored = [
            (-told["token_scores"][ids[pair]], at) for at, pair in enumerate(pairs) if pair in ids
        ]
        if not scored:
            break
        _, at = min(scored)
        parts[at : at + 2] = [pairs[at]]
    spelled = [[one] if one in ids else [f"<0x{b:02X}>" for b in one.encode()] for one in parts]
    return [ids[one] for group in spelled for one in group]


@pytest.mark.parametrize("removed", [0, 150])
def test_scores_merge_as_the_merges_do(removed: int) -> None:
    tokenizer = make_fallback_tokenizer("gemma")
    rows = len(tokenizer)
    if removed:
        gone = read_vocabulary(tokenizer).removable[:removed]
        tokenizer, kept = trim_tokenizer(tokenizer, gone, rows)
        rows = len(kept)
    told = told_of(tokenizer, rows)
    assert (told["tokenizer_model"], told["tokenizer_pre"]) == ("llama", "default")
    assert len(told["token_list"]) == rows
    for text in (" ".join(WORDS), "the old bridge", "你好 é <> zq"):
        wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert merge_by_scores(text, told) == wanted
    types = told["token_types"]
    assert types.count(BYTE) == 256
    assert types.count(UNKNOWN) == 1
    assert types.count(CONTROL) == 3
    assert told["add_bos_token"] is True
    assert told["add_space_prefix"] is False


@pytest.mark.parametrize(("kind", "marked"), [("llama2", True), ("metaspace", True)])
def test_a_space_before_every_text_is_told(kind: str, marked: bool) -> None:
    tokenizer = make_fallback_tokenizer(kind)
    assert told_of(tokenizer, len(tokenizer))["add_space_prefix"] is marked


def test_added_tokens_that_are_not_special_are_the_users() -> None:
    tokenizer = make_tokenizer_like("phi2")
    told = told_of(tokenizer, len(tokenizer))
    spaces = tokenizer.convert_tokens_to_ids("   ")
    assert told["token_types"][spaces] == USER_DEFINED
    assert told["token_list"][spaces] == "   "


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_that_llamacpp_has_no_name_for_is_refused(kind: str) -> None:
    tokenizer = make_tokenizer_like(kind)
    if kind in ("pythia", "phi2"):
        assert name_split(tokenizer) == "gpt-2"
        return
    with pytest.raises(SettingError, match="no name for how it splits text"):
        name_split(tokenizer)


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(SettingError, match="neither BPE of bytes nor of characters"):
        name_split(PreTrainedTokenizerFast(tokenizer_object=words))


def test_a_tokenizer_without_merges_is_refused() -> None:
    with pytest.raises(SettingError, match="no merges left"):
        name_split(make_tokenizer())
