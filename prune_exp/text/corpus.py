"""Text to blocks of tokens. Calibration and held-out text never share a document."""

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prune_exp.machine.cache import digest_of
from prune_exp.machine.packages import package_file
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings

ARTICLE = re.compile(r"<doc [^>]*>\n?(.*?)</doc>", re.DOTALL)
SEPARATOR = "\n\n"
"""Between two documents."""
SHORTEST_PARAGRAPH = 80
HELD_OUT_EVERY = 5
RESERVED = 1


@dataclass(frozen=True, kw_only=True)
class TokenBlocks:
    """Equal blocks of text."""

    ids: torch.Tensor
    """Token ids [blocks, context_tokens]."""
    bytes_scored: int
    """UTF-8 bytes of the tokens that are predicted, all but the first of each block."""
    digest: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The text a trial works with."""

    calibration: TokenBlocks
    heldout: TokenBlocks
    documents: tuple[str, ...] = ()
    """Everything that calibration may read, the documents beyond its blocks included."""


def text_path(settings: DataSettings) -> Path:
    """Finds the text file.

    Raises:
        SettingError: it is not there.
    """
    path = str(settings.path)
    if settings.package is not None:
        return package_file(settings.package, path, setting="data.package")
    file = Path(path).expanduser()
    if not file.is_file():
        raise SettingError(f"data.path={file} is not a file; give a UTF-8 text file")
    return file


def split_into_documents(text: str) -> list[str]:
    """Splits text at `<doc>` tags, or else at blank lines; drops short paragraphs (headings).

    Where neither is there, every line is a document. Of JSON lines the field `text` is read.

    Raises:
        SettingError: a JSON line has no such field.
    """
    articles = ARTICLE.findall(text)
    if not articles:
        parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
        if len(parts) != 1:
            return parts
        lines = [line.strip() for line in parts[0].splitlines() if line.strip()]
        return _read_json_lines(lines) if lines[0].startswith("{") else lines
    kept = (
        "\n".join(line for line in article.splitlines() if len(line) >= SHORTEST_PARAGRAPH)
        for article in articles
    )
    return [article for article in kept if article]


def _read_json_lines(lines: list[str]) -> list[str]:
    """The field `text` of every line; the lines themselves where the first is no JSON object."""
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == 1:
                return lines
            raise SettingError(f"data.path: line {number} is no JSON, as line 1 is") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise SettingError(
                f'data.path: line {number} is JSON without a text: {{"text": "..."}} is read'
            )
        found.append(record["text"].strip())
    return [one for one in found if one]


def load_corpus(settings: DataSettings, tokenizer: Any, *, seed: int) -> Corpus:
    """Cuts calibration and held-out blocks of tokens from documents that the two do not share.

    Every fifth document is held out, the next one is reserved for a last judgement that no search
    has seen, the rest calibrates. The seed reorders calibration documents only, so that quality
    is always measured on the same blocks. With `data.calibration=generated` no document calibrates:
    there are no calibration blocks until the model has written them.

    Raises:
        SettingError: the file is missing, empty, not UTF-8, or too short.
    """
    file = text_path(settings)
    parts = _read_documents(file)
    held_out = parts[::HELD_OUT_EVERY]
    rest = [p for i, p in enumerate(parts) if i % HELD_OUT_EVERY not in (0, RESERVED)]
    random.Random(seed).shuffle(rest)
    context = settings.context_tokens
    wanted = settings.calibration_blocks
    if settings.calibration == "generated":
        rest = []
        wanted = 0
    return Corpus(
        calibration=_cut_blocks(rest, tokenizer, wanted, context, file),
        heldout=_cut_blocks(held_out, tokenizer, settings.heldout_blocks, context, file),
        documents=tuple(rest),
    )


def load_reserved(settings: DataSettings, tokenizer: Any, *, blocks: int) -> TokenBlocks:
    """Cuts blocks from the documents that neither calibrate nor are held out in trials.

    Raises:
        SettingError: as `load_corpus` does.
    """
    file = text_path(settings)
    reserved = _read_documents(file)[RESERVED::HELD_OUT_EVERY]
    return _cut_blocks(reserved, tokenizer, blocks, settings.context_tokens, file, "limits.blocks")


def _read_documents(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingError(f"data.path={file} is not UTF-8 text; convert it first") from None
    parts = split_into_documents(text)
    if not parts:
        raise SettingError(f"data.path={file} holds no text; give a file with text in it")
    return parts


def token_ids(text: str, tokenizer: Any) -> list[int]:
    """A text's tokens, none added."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def opening_tokens(tokenizer: Any) -> list[int]:
    """The token that a tokenizer puts before every text, in a list; empty when it puts none.

    Models that were trained with it (Gemma, OPT) are lost without it, so every block has it.
    """
    first = tokenizer.bos_token_id
    added = tokenizer("", verbose=False)["input_ids"]
    return [first] if first is not None and added[:1] == [first] else []


def _as_blocks(ids: Sequence[int], start: Sequence[int], context: int) -> torch.Tensor:
    """Whole blocks [blocks, context] that begin with `start` and go on with the next of `ids`."""
    size = context - len(start)
    blocks = len(ids) // size
    own = torch.tensor(ids[: blocks * size], dtype=torch.long).view(blocks, size)
    return torch.cat([torch.tensor(start, dtype=torch.long).expand(blocks, -1), own], dim=1)


def documents_for(documents: Iterable[str], tokenizer: Any, tokens: int) -> int | None:
    """How many of the first documents hold so many tokens; None when all are too few."""
    held = 0
    for count, text in enumerate(documents, 1):
        held += len(token_ids(text + SEPARATOR, tokenizer))
        if held >= tokens:
            return count
    return None


def token_frequency(documents: Sequence[str], tokenizer: Any, vocab: int) -> torch.Tensor:
    """Share of each token in some documents [vocab]."""
    counts = torch.zeros(vocab)
    for text in documents:
        ids = token_ids(text, tokenizer)
        counts += torch.bincount(torch.tensor(ids, dtype=torch.long), minlength=vocab)
    return counts / counts.sum().clamp_min(1)


def retokenize(corpus: Corpus, settings: DataSettings, tokenizer: Any) -> torch.Tensor:
    """The calibration documents as blocks of another tokenizer's ids [blocks, tokens].

    As many blocks as of the dense tokenizer's, unless the documents give fewer.
    """
    wanted = settings.calibration_blocks
    context = settings.context_tokens
    enough = documents_for(corpus.documents, tokenizer, wanted * context)
    return all_blocks(corpus.documents[:enough], tokenizer, context)[:wanted]


def all_blocks(parts: Sequence[str], tokenizer: Any, context: int) -> torch.Tensor:
    """All whole blocks of `context` tokens that some documents give [blocks, context]."""
    ids: list[int] = []
    for part in parts:
        ids += token_ids(part + SEPARATOR, tokenizer)
    return _as_blocks(ids, opening_tokens(tokenizer), context)


def _cut_blocks(
    parts: list[str],
    tokenizer: Any,
    wanted: int,
    context: int,
    file: Path,
    counts: str = "data.calibration_blocks and data.heldout_blocks",
) -> TokenBlocks:
    """Tokenizes just enough documents for `wanted` blocks of `context` tokens."""
    start = opening_tokens(tokenizer)
    ids: list[int] = []
    sizes: list[int] = []
    for part in parts:
        new_ids, new_sizes = _tokenize(part + SEPARATOR, tokenizer)
        ids += new_ids
        sizes += new_sizes
        if len(ids) >= wanted * context:
            break
    used = _as_blocks(ids, start, context)[:wanted]
    if len(used) < wanted:
        raise SettingError(
            f"data.path={file.name} gives {len(used)} of the {wanted} blocks of {context} tokens"
            f" asked for; use a longer text, a smaller data.context_tokens, or fewer {counts}"
        )
    scored = _as_blocks(sizes, [0] * len(start), context)[:wanted, 1:].sum()
    digest = digest_of(used.flatten().tolist())
    return TokenBlocks(ids=used, bytes_scored=int(scored), digest=digest, source=file.name)


def _tokenize(text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids and the UTF-8 bytes of each; the bytes add up to the text's whatever is split."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in encoded["offset_mapping"]]
    sizes = []
    before = 0
    for end in ends:
        end = max(end, before)
        sizes.append(len(text[before:end].encode()))
        before = end
    return list(encoded["input_ids"]), sizes
