"""What is asked, as a tokenizer has it."""

from prune_exp.measurement.prompts import tokenize_prompt, tokenize_prompts
from support.tokenizers import make_bpe_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for one in messages %}{{ one.role }} {{ one.content }}{% endfor %}"
    "{% if add_generation_prompt %} then{% endif %}"
)


def test_a_message_is_asked_by_the_template_and_begins_once() -> None:
    tokenizer = make_bpe_tokenizer()
    tokenizer.chat_template = TEMPLATE
    ids = tokenize_prompt("the river", tokenizer, as_chat=True)
    assert tokenizer.decode(ids) == "<end>user the river then"
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenize_prompt("the river", tokenizer) == tokenizer("the river")["input_ids"]


def test_each_side_asks_in_its_own_tokens() -> None:
    tokenizers = {"dense": make_bpe_tokenizer(330), "pruned": make_bpe_tokenizer(280)}
    for one in tokenizers.values():
        one.chat_template = TEMPLATE
    for as_chat in (False, True):
        found = tokenize_prompts(["the river", "a stone"], tokenizers, as_chat=as_chat)
        texts = {
            side: [tokenizers[side].decode(ids) for ids in asked] for side, asked in found.items()
        }
        assert texts["dense"] == texts["pruned"]
        assert ("then" in texts["dense"][0]) is as_chat
