"""Tokenizers, learnt or put together on the spot."""

import random
from typing import Any

WORDS = [
    "the",
    "a",
    "river",
    "stone",
    "bridge",
    "old",
    "new",
    "runs",
    "stands",
    "falls",
    "over",
    "under",
    "quickly",
    "slowly",
    "and",
    "but",
]


def make_tokenizer() -> Any:
    """A byte-level tokenizer: 256 byte tokens after one special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<end>": 0} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>", pad_token="<end>"
    )


def make_bpe_tokenizer(size: int = 300) -> Any:
    """A byte-level BPE tokenizer with real merges, learnt from made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    chance = random.Random(1)
    text = [" ".join(chance.choices(WORDS, k=20)) for _ in range(50)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>", pad_token="<end>"
    )


def make_unigram_tokenizer(text: str) -> Any:
    """A tokenizer from which no tokens can be taken: pieces by their probability, no bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted({*text.replace(" ", "\u2581"), *(f"\u2581{word}" for word in WORDS)})
    vocab = [("<unk>", 0.0), ("<end>", 0.0), *((piece, -float(len(piece))) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", bos_token="<end>"
    )


def make_fallback_tokenizer(kind: str = "gemma", size: int = 700) -> Any:
    """A BPE tokenizer of characters that falls back on bytes, as SentencePiece makes them.

    `kind` is how it marks spaces: as Gemma does, or as Llama 2 does, in the old or new way. Where
    two tokens join to a third there is a merge, so that most tokens are made in several ways.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    pieces = _pieces(size)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if not piece.startswith("<") and {piece[:cut], piece[cut:]} <= set(vocab)
    ]
    tokenizer = Tokenizer(
        kinds.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    mark, steps = normalizers.Replace(" ", "\u2581"), [decoders.Replace("\u2581", " ")]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        first = [normalizers.Prepend("\u2581")] if kind == "llama2" else []
        tokenizer.normalizer = normalizers.Sequence([*first, mark])
    tokenizer.decoder = decoders.Sequence(
        steps if kind == "gemma" else [*steps, decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in pieces[:4]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _pieces(size: int) -> list[str]:
    """Special tokens, bytes, characters, and parts of words by how often they are seen."""
    from collections import Counter

    chance, seen = random.Random(2), Counter()
    for word in chance.choices([*WORDS, "é", "你好"], k=500):
        marked = f"\u2581{word}"
        seen.update(marked[a:b] for a in range(len(marked)) for b in range(a + 2, len(marked) + 1))
    characters = sorted({*"".join(WORDS), *"\u2581\n<>0x.,é你好"})
    fixed = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    common = [piece for piece, _ in seen.most_common(size - len(fixed) - len(characters))]
    return [*fixed, *common, *characters]


KINDS = ("llama3", "qwen", "deepseek", "pythia", "phi2")
"""Tokenizers of byte-level BPE as released models have them, each with oddities of its own."""
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def make_tokenizer_like(kind: str, size: int = 330) -> Any:
    """A tiny tokenizer put together as that of a released model."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers import normalizers as normal
    from transformers import PreTrainedTokenizerFast

    whole = kind in ("llama3", "deepseek")
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    bytes_of = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=kind in ("pythia", "phi2")
    )
    steps: list[Any] = [bytes_of]
    if kind in ("llama3", "qwen", "deepseek"):
        steps.insert(0, pre_tokenizers.Split(Regex(SPLIT), "isolated"))
    if kind == "deepseek":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else bytes_of
    if kind in ("qwen", "pythia"):
        tokenizer.normalizer = normal.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    _teach(tokenizer, size)
    special, plain = ADDED[kind]
    tokenizer.add_special_tokens(
        [AddedToken(one, special=True, normalized=False) for one in special]
    )
    tokenizer.add_tokens([AddedToken(one, normalized=kind == "pythia") for one in plain])
    tokenizer.post_processor = _opening(tokenizer, special[0] if whole else None)
    bos = {"bos_token": special[0]} if whole else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[-1], **bos)


ADDED: dict[str, tuple[list[str], list[str]]] = {
    "llama3": (["<|begin_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"], []),
    "qwen": (["<|im_start|>", "<|im_end|>", "<|endoftext|>"], ["<tool_call>", "<think>"]),
    "deepseek": (["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], ["<｜User｜>", "<think>"]),
    "pythia": (["<|padding|>", "<|endoftext|>"], [" " * count for count in (24, 8, 4, 2)]),
    "phi2": (["<|endoftext|>"], [" " * count for count in (7, 3, 2)] + ["\t" * 4, "\t" * 2]),
}
"""Special tokens, and others that were added behind the merges."""


def _teach(tokenizer: Any, size: int) -> None:
    """Merges learnt from made-up words of three scripts, and that of two line ends."""
    from tokenizers import pre_tokenizers, trainers

    chance = random.Random(1)
    text = [" ".join(chance.choices([*WORDS, "你好", "мост"], k=20)) for _ in range(50)]
    text += ["\n\n"] * 200
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)


def _opening(tokenizer: Any, bos: str | None) -> Any:
    """What puts a first token before every text, or only keeps offsets."""
    from tokenizers import processors

    level = processors.ByteLevel(trim_offsets=False)
    if bos is None:
        return level
    tokens = [(bos, tokenizer.token_to_id(bos))]
    first = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=tokens)
    return processors.Sequence([level, first])
