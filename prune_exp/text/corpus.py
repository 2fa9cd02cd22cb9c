"""Documents to blocks of tokens. Calibration and held-out text never share a document."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from prune_exp.machine.cache import digest_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings, QualitySettings
from prune_exp.text.documents import (
    HELD_OUT_EVERY,
    TextFile,
    deal_documents,
    leave_out,
    list_calibration_files,
)
from prune_exp.text.domains import FURTHER, JudgedFile, list_judged_files
from prune_exp.text.records import FEWEST_DOCUMENTS

SEPARATOR = "\n\n"
"""Between two documents."""
WELL_PARTED = 2
"""Of a text that is parted well; with fewer for one end a longer text would not help."""
FEWEST_BLOCKS = 12
"""Of a domain that has fewer than are asked for; below that there is too little to judge on."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One kind of text among some blocks, which hold those of every kind one after another."""

    name: str
    blocks: int
    bytes_scored: int
    """As that of all blocks."""
    kept: bool
    """Whether a model that loses this text has not kept its quality."""
    documents: int | None = None
    """How many the blocks could have been cut from; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class TokenBlocks:
    """Equal blocks of text."""

    ids: torch.Tensor
    """Token ids [blocks, context_tokens]."""
    bytes_scored: int
    """UTF-8 bytes of the tokens that are predicted, all but the first of each block."""
    digest: str
    """Of the tokens in their order, however long the blocks are."""
    source: str
    domains: tuple[Domain, ...] = ()
    """The kinds of text, in the order of their blocks; none where nobody asks for kinds."""
    documents: torch.Tensor | None = None
    """The document that each token is of [blocks, context_tokens], numbered from 0 over all
    domains; where it is None, every block is a document of its own."""

    @property
    def owners(self) -> torch.Tensor:
        """The document that each token is of [blocks, context_tokens]."""
        if self.documents is not None:
            return self.documents
        return torch.arange(len(self.ids))[:, None].expand(self.ids.shape)

    def count_predicted(self) -> torch.Tensor:
        """How many tokens are predicted of each document [documents]; a block's first is not."""
        return torch.bincount(self.owners[:, 1:].flatten())

    def documents_in(self, rows: Sequence[int]) -> list[int]:
        """The documents that some of the blocks predict tokens of."""
        return self.owners[list(rows), 1:].unique().tolist()

    def spans(self) -> Iterator[tuple[Domain, range]]:
        """Every domain with the rows of its blocks; text without domains is one, to be kept."""
        whole = Domain(
            name="heldout", blocks=len(self.ids), bytes_scored=self.bytes_scored, kept=True
        )
        start = 0
        for domain in self.domains or (whole,):
            yield domain, range(start, start + domain.blocks)
            start += domain.blocks

    @property
    def kept_rows(self) -> list[int]:
        """The rows of the blocks on which quality is to be kept."""
        return [row for domain, rows in self.spans() if domain.kept for row in rows]


@dataclass(frozen=True, kw_only=True)
class CalibrationPart:
    """What one file gives to calibration."""

    documents: tuple[str, ...]
    source: str
    """The file's name."""
    share: float = 1.0
    """Share of the calibration blocks that come from it, among those of all files."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The text a trial works with."""

    calibration: TokenBlocks
    heldout: TokenBlocks
    parts: tuple[CalibrationPart, ...] = ()
    """Everything that calibration may read, the documents beyond its blocks included."""

    @property
    def documents(self) -> tuple[str, ...]:
        """All documents that calibrate, those of several files spread evenly."""
        order = spread_evenly([len(part.documents) for part in self.parts])
        return tuple(self.parts[at].documents[place] for at, place in order)


def load_corpus(
    data: DataSettings, quality: QualitySettings, tokenizer: Any, *, seed: int
) -> Corpus:
    """Cuts calibration and held-out blocks of tokens from documents that the two do not share.

    Of every file each fifth document is held out, the next one is reserved for a last judgement
    that no search has seen, the rest calibrates; a text that judges calibrates nowhere. The seed
    reorders calibration documents only, so that quality is always measured on the same blocks. With
    `data.calibration=generated` no document calibrates: there are no calibration blocks until the
    model has written them.

    Raises:
        SettingError: a file is missing, empty, not UTF-8, too short, or one that is given twice.
    """
    judged = list_judged_files(data, quality)
    dealt = [deal_documents(one.file) for one in judged]
    heldout = _join_domains(
        [
            _cut_domain(one, data, tokenizer, data.heldout_blocks, documents.heldout)
            for one, documents in zip(judged, dealt, strict=True)
        ]
    )
    parts: tuple[CalibrationPart, ...] = ()
    if data.calibration != "generated":
        judging = {text for one in dealt for text in (*one.heldout, *one.reserved)}
        parts = tuple(_read_part(file, seed, judging) for file in list_calibration_files(data))
    return Corpus(calibration=cut_calibration(parts, data, tokenizer), heldout=heldout, parts=parts)


def _blocks_for_verdict(blocks: int, documents: int) -> int:
    """About how many blocks are of enough documents, a half more for those of unequal length."""
    return math.ceil(1.5 * blocks * FEWEST_DOCUMENTS / max(documents, 1))


def describe_few_documents(heldout: TokenBlocks) -> list[str]:
    """Why texts to be kept can get no verdict, known before anything is measured."""
    found = []
    for domain, rows in heldout.spans():
        documents = len(heldout.documents_in(rows))
        if domain.kept and documents < FEWEST_DOCUMENTS:
            found.append(
                f"there will be no verdict on quality: {len(rows)} held-out blocks of {domain.name}"
                f" are of {documents} documents, and a verdict needs {FEWEST_DOCUMENTS}; give"
                f" {_advise_more(domain, documents)}"
            )
    return found


def _advise_more(domain: Domain, documents: int) -> str:
    """What gives a domain enough documents, of which its blocks have a few now."""
    if domain.documents is not None and domain.documents < FEWEST_DOCUMENTS:
        return (
            f"a text of {FEWEST_DOCUMENTS * HELD_OUT_EVERY} documents or more, one in"
            f" {HELD_OUT_EVERY} of which is held out (a smaller data.stretch_characters makes more"
            " of a text that only blank lines part)"
        )
    return (
        f"data.heldout_blocks={_blocks_for_verdict(domain.blocks, documents)} or about so many, or"
        " shorter documents (data.stretch_characters cuts long ones at line ends)"
    )


def load_reserved(
    data: DataSettings, quality: QualitySettings, tokenizer: Any, *, blocks: int
) -> TokenBlocks:
    """Cuts blocks of every kept domain from documents that no trial reads or is judged on.

    Raises:
        SettingError: as `load_corpus` does.
    """
    return _join_domains(
        [
            _cut_domain(one, data, tokenizer, blocks, documents, counts="limits.blocks")
            for one, documents in _list_reserved(data, quality)
        ]
    )


def reserved_digest(data: DataSettings, quality: QualitySettings) -> str:
    """Identifies the documents that `load_reserved` cuts blocks from, however many."""
    return digest_of([documents for _, documents in _list_reserved(data, quality)])


def _list_reserved(
    data: DataSettings, quality: QualitySettings
) -> list[tuple[JudgedFile, tuple[str, ...]]]:
    """The kept domains with their reserved documents, none of which is held out in any file."""
    dealt = [(one, deal_documents(one.file)) for one in list_judged_files(data, quality)]
    heldout = {text for _, documents in dealt for text in documents.heldout}
    return [(one, leave_out(documents.reserved, heldout)) for one, documents in dealt if one.kept]


def _read_part(file: TextFile, seed: int, judging: set[str]) -> CalibrationPart:
    """What a file gives to calibration: nothing that judges in any file."""
    documents = leave_out(deal_documents(file, seed=seed).calibration, judging)
    return CalibrationPart(documents=documents, source=file.path.name, share=file.share)


def cut_calibration(
    parts: Sequence[CalibrationPart], data: DataSettings, tokenizer: Any
) -> TokenBlocks:
    """Blocks of every part by its share, spread evenly, so that the first ones are a mix too.

    Raises:
        SettingError: a part is too short.
    """
    counts = share_out(data.calibration_blocks, [part.share for part in parts])
    cut = [
        _cut_blocks(
            part.documents,
            tokenizer,
            count,
            data.context_tokens,
            part.source,
            setting="data.mix" if data.mix else "data.path",
        )
        for part, count in zip(parts, counts, strict=True)
    ]
    order = spread_evenly(counts)
    rows = [cut[at].ids[place] for at, place in order]
    ids = _stack_blocks(rows, data.context_tokens)
    return TokenBlocks(
        ids=ids,
        bytes_scored=sum(one.bytes_scored for one in cut),
        digest=digest_of(ids.flatten().tolist()),
        source=", ".join(part.source for part in parts),
    )


def _cut_domain(
    judged: JudgedFile,
    data: DataSettings,
    tokenizer: Any,
    wanted: int,
    documents: Sequence[str],
    *,
    counts: str = "data.heldout_blocks",
) -> TokenBlocks:
    """Blocks of a file's held-out or reserved documents, `wanted` by the setting `counts`.

    Where it may be short it gives what it has, but no fewer than FEWEST_BLOCKS.
    """
    file = judged.file
    text = _cut_blocks(
        documents,
        tokenizer,
        wanted,
        data.context_tokens,
        file.path.name,
        counts=counts,
        setting=file.setting,
        can_be_left_out=counts == "data.heldout_blocks" and file.setting == FURTHER,
        fewest=FEWEST_BLOCKS if judged.may_be_short else wanted,
    )
    domain = Domain(
        name=file.name,
        blocks=len(text.ids),
        bytes_scored=text.bytes_scored,
        kept=judged.kept,
        documents=len({*documents}),
    )
    return replace(text, domains=(domain,))


def _join_domains(texts: Sequence[TokenBlocks]) -> TokenBlocks:
    """The blocks of all domains, one after another, and their documents numbered likewise."""
    ids = torch.cat([text.ids for text in texts])
    owners: list[torch.Tensor] = []
    for text in texts:
        owners.append(text.owners + (int(owners[-1].max()) + 1 if owners else 0))
    return TokenBlocks(
        ids=ids,
        bytes_scored=sum(text.bytes_scored for text in texts),
        digest=digest_of(ids.flatten().tolist()),
        source=", ".join(text.source for text in texts),
        domains=tuple(domain for text in texts for domain in text.domains),
        documents=torch.cat(owners),
    )


def share_out(count: int, shares: Sequence[float]) -> list[int]:
    """A count dealt out by shares that add up to 1; the largest remainders are rounded up."""
    exact = [count * share for share in shares]
    dealt = [int(one + 1e-9) for one in exact]
    by_remainder = sorted(range(len(shares)), key=lambda at: dealt[at] - exact[at])
    for at in by_remainder[: count - sum(dealt) if shares else 0]:
        dealt[at] += 1
    return dealt


def spread_evenly(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(row, place) of every one of `counts[row]` things, so that every stretch is a fair mix."""
    places = [(at, place) for at, count in enumerate(counts) for place in range(count)]
    return sorted(places, key=lambda one: ((one[1] + 0.5) / counts[one[0]], one[0]))


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


def as_blocks(ids: Sequence[int], start: Sequence[int], context: int) -> torch.Tensor:
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


def token_frequency(parts: Sequence[CalibrationPart], tokenizer: Any, vocab: int) -> torch.Tensor:
    """Share of each token in documents [vocab], every part counted by its share.

    Tokens beyond `vocab` are not counted.
    """
    frequency = torch.zeros(vocab)
    for part in parts:
        counts = torch.zeros(vocab)
        for text in part.documents:
            ids = token_ids(text, tokenizer)
            counts += torch.bincount(torch.tensor(ids, dtype=torch.long), minlength=vocab)[:vocab]
        frequency += part.share * counts / counts.sum().clamp_min(1)
    return frequency


def count_documents_read(corpus: Corpus, settings: DataSettings, tokenizer: Any) -> list[int]:
    """How many of each part's first documents the calibration blocks are cut from."""
    counts = share_out(settings.calibration_blocks, [part.share for part in corpus.parts])
    found = []
    for part, wanted in zip(corpus.parts, counts, strict=True):
        enough = documents_for(part.documents, tokenizer, wanted * settings.context_tokens)
        found.append(len(part.documents) if enough is None else enough)
    return found


def retokenize(corpus: Corpus, settings: DataSettings, tokenizer: Any) -> torch.Tensor:
    """The calibration documents as blocks of another tokenizer's ids [blocks, tokens].

    As many blocks as of the dense tokenizer's, unless the documents give fewer.
    """
    context = settings.context_tokens
    counts = share_out(settings.calibration_blocks, [part.share for part in corpus.parts])
    cut = []
    for part, wanted in zip(corpus.parts, counts, strict=True):
        enough = documents_for(part.documents, tokenizer, wanted * context)
        cut.append(all_blocks(part.documents[:enough], tokenizer, context)[:wanted])
    order = spread_evenly([len(blocks) for blocks in cut])
    return _stack_blocks([cut[at][place] for at, place in order], context)


def _stack_blocks(rows: Sequence[torch.Tensor], context: int) -> torch.Tensor:
    """Rows [context] as blocks [blocks, context], also where there are none."""
    return torch.stack(list(rows)) if rows else torch.zeros(0, context, dtype=torch.long)


def all_blocks(parts: Sequence[str], tokenizer: Any, context: int) -> torch.Tensor:
    """All whole blocks of `context` tokens that some documents give [blocks, context]."""
    ids: list[int] = []
    for part in parts:
        ids += token_ids(part + SEPARATOR, tokenizer)
    return as_blocks(ids, opening_tokens(tokenizer), context)


def _cut_blocks(
    documents: Sequence[str],
    tokenizer: Any,
    wanted: int,
    context: int,
    source: str,
    *,
    counts: str = "data.calibration_blocks",
    setting: str = "data.path",
    can_be_left_out: bool = False,
    fewest: int | None = None,
) -> TokenBlocks:
    """Tokenizes just enough documents for `wanted` blocks of `context` tokens.

    One that is there again counts as the same one, since intervals take documents for independent.

    Raises:
        SettingError: they give fewer, and fewer than `fewest`.
    """
    start = opening_tokens(tokenizer)
    ids: list[int] = []
    sizes: list[int] = []
    owners: list[int] = []
    first: dict[str, int] = {}
    for number, text in enumerate(documents):
        owner = first.setdefault(text, number)
        new_ids, new_sizes = _tokenize(text + SEPARATOR, tokenizer)
        ids += new_ids
        sizes += new_sizes
        owners += [owner] * len(new_ids)
        if len(ids) >= wanted * context:
            break
    used = as_blocks(ids, start, context)[:wanted]
    if len(used) < min(wanted, wanted if fewest is None else fewest):
        few = len(documents) < WELL_PARTED
        advice = f"put blank lines between documents (here {len(documents)} serve this end)"
        without = f", or leave it out of {FURTHER}" if can_be_left_out else ""
        raise SettingError(
            f"{setting}={source} gives {len(used)} of the {wanted} blocks of {context} tokens asked"
            f" for; {advice if few else 'use a longer text'}, a smaller data.context_tokens, or"
            f" fewer {counts}{without}"
        )
    nothing = [0] * len(start)
    scored = as_blocks(sizes, nothing, context)[: len(used), 1:].sum()
    return TokenBlocks(
        ids=used,
        bytes_scored=int(scored),
        digest=digest_of(used.flatten().tolist()),
        source=source,
        documents=as_blocks(owners, nothing, context)[: len(used)],
    )


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
