"""What the gates look at, worked out when a gate first asks for it."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from prune_exp.machine.device import choose_device
from prune_exp.measurement.benchmark import measure_pair
from prune_exp.measurement.intervals import multiply, ratio_over_documents, token_ratio
from prune_exp.measurement.prompts import list_prompts, read_prompts, tokenize_prompts
from prune_exp.measurement.quality import (
    DocumentLosses,
    losses_by_document,
    split_block,
)
from prune_exp.measurement.records import Interval, SpeedComparison
from prune_exp.model import loading
from prune_exp.model.export import weights_sha256
from prune_exp.model.sources import ModelSource
from prune_exp.registry.candidates import Candidate
from prune_exp.registry.integrity import find_file_fault
from prune_exp.registry.origin import check_judged_text, data_of, find_dense_model, judged_on
from prune_exp.settings.command_schemas import LimitSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings, QualitySettings
from prune_exp.settings.params import restore_settings
from prune_exp.text.corpus import TokenBlocks, load_reserved, opening_tokens
from prune_exp.text.records import FEWEST_DOCUMENTS
from prune_exp.text.token_bytes import Reencode, make_reencoder
from prune_exp.text.tokenizer import read_vocabulary
from prune_exp.tracking import tags

MOST_BLOCKS = 32
"""Blocks of reserved text that are judged unless something else is asked for."""
FEWEST_ROUNDS = 2
"""Of batch requests, where their times are not asked for."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A candidate, the champion it is up against, and what they make of the same text."""

    candidate: Candidate
    champion: Candidate | None
    limits: LimitSettings
    cache_dir: Path

    @property
    def device(self) -> str:
        """The kind of device that the candidate's trial ran on.

        Raises:
            SettingError: there is none here.
        """
        trial = self.candidate.trial
        known = trial.tags.get(tags.DEVICE) or trial.params.get("device", "cpu")
        return choose_device(known.split()[0])  # without the name of the GPU

    @cached_property
    def champion_fault(self) -> str | None:
        """What is wrong with the champion's files; None if nothing."""
        assert self.champion is not None
        return find_file_fault(self.champion, weights_sha256(self.champion.folder))

    @property
    def quality_limit(self) -> float:
        """The perplexity ratio that is allowed: a trial may ask more of itself, but not less."""
        wanted = self.limits.max_perplexity_ratio
        if wanted is not None:
            return wanted
        own = judged_on(self.candidate.trial).max_perplexity_ratio
        return min(QualitySettings().max_perplexity_ratio, own)

    @property
    def benchmark(self) -> BenchmarkSettings:
        """How candidate and dense model are timed again: as in the trial, on no less than limits.

        Batches are only there for the memory that they take, so they are asked for seldom.

        Raises:
            SettingError: the trial's prompts are missing.
        """
        limits = self.limits
        return replace(
            self._lengthen_benchmark(limits.pairs, limits.new_tokens), batch_rounds=FEWEST_ROUNDS
        )

    @property
    def champion_benchmark(self) -> BenchmarkSettings:
        """How the champion is timed: as the candidate's trial was, but on no less than the limits.

        Raises:
            SettingError: the trial's prompts are missing.
        """
        limits = self.limits
        return self._lengthen_benchmark(limits.champion_pairs, limits.champion_new_tokens)

    def _lengthen_benchmark(self, pairs: int, new_tokens: int) -> BenchmarkSettings:
        params = self.candidate.trial.params
        own = restore_settings(BenchmarkSettings, params, "benchmark")
        prompts = max(own.prompts, min(pairs, len(list_prompts(own))))
        return replace(
            own,
            prompts=prompts,
            max_rounds=max(own.max_rounds, -(-pairs // prompts)),
            min_pairs=max(own.min_pairs, pairs),
            new_tokens=max(own.new_tokens, new_tokens),
            bootstrap_resamples=max(own.bootstrap_resamples, self.limits.resamples),
        )

    @cached_property
    def source(self) -> ModelSource:
        """The dense model.

        Raises:
            SettingError: it is missing, or not the one that the trial pruned.
        """
        return find_dense_model(self.candidate.trial, self.cache_dir)

    @cached_property
    def tokenizer(self) -> Any:
        """The dense model's tokenizer."""
        return loading.load_tokenizer(self.source.folder)

    @cached_property
    def text(self) -> TokenBlocks:
        """Blocks of every text to be kept that no trial used, in the dense model's tokens.

        Raises:
            SettingError: the text is missing, too short, of too few documents, or not the one that
                the trial used.
        """
        trial = self.candidate.trial
        check_judged_text(trial, self.tokenizer)
        data = data_of(trial)
        blocks = self.limits.blocks or min(MOST_BLOCKS, data.heldout_blocks)
        text = load_reserved(data, judged_on(trial), self.tokenizer, blocks=blocks)
        for domain, rows in text.spans():
            documents = len(text.documents_in(rows))
            if documents < FEWEST_DOCUMENTS:
                raise SettingError(
                    f"limits.blocks={blocks} blocks of {domain.name} are of"
                    f" {documents} reserved documents, and a verdict needs {FEWEST_DOCUMENTS}; give"
                    " more limits.blocks, or prune again with a text of more documents"
                )
        return text

    @property
    def documents(self) -> int:
        """How many documents `text` is of."""
        return len(self.text.documents_in(range(len(self.text.ids))))

    @cached_property
    def own_ids(self) -> torch.Tensor:
        """The first block of `text` in the candidate's own tokens [1, tokens]."""
        reencode = self._reencoder_to(loading.load_tokenizer(self.candidate.folder))
        return split_block(self.text.ids[0], self.text.owners[0], reencode)[1][None]

    @cached_property
    def dense_losses(self) -> torch.Tensor:
        """Summed loss of each document of `text`, in nats [documents]."""
        return losses_by_document(self._load(self.source.folder), self.text).losses

    @property
    def losses(self) -> torch.Tensor:
        """The candidate's."""
        return self._candidate_judged.losses

    @property
    def champion_losses(self) -> torch.Tensor:
        """The champion's."""
        return self._champion_judged.losses

    @cached_property
    def _candidate_judged(self) -> DocumentLosses:
        """The candidate's losses, and how many tokens of its own `text` is."""
        return self._judge(self.candidate.folder)

    @cached_property
    def _champion_judged(self) -> DocumentLosses:
        """The champion's, likewise."""
        assert self.champion is not None
        return self._judge(self.champion.folder)

    def perplexity_ratio(self, ours: torch.Tensor, theirs: torch.Tensor) -> Interval:
        """Perplexity over another's, per token of the dense model's tokenizer."""
        return self._ratio_on(range(len(self.text.ids)), ours, theirs)

    def ratio_by_domain(self) -> dict[str, Interval]:
        """Perplexity over the dense model's on every text that is to be kept, by its name."""
        return {
            domain.name: self._ratio_on(rows, self.losses, self.dense_losses)
            for domain, rows in self.text.spans()
        }

    def _ratio_on(self, rows: range, ours: torch.Tensor, theirs: torch.Tensor) -> Interval:
        documents = self.text.documents_in(rows)
        gaps = (ours - theirs)[documents]
        tokens = self.text.count_predicted()[documents]
        return ratio_over_documents(gaps.tolist(), tokens.tolist()).ratio

    @cached_property
    def speed(self) -> SpeedComparison:
        """Candidate and dense model timed again, beside each other in fresh processes.

        The trial's own interval is no judge: of many trials the one was chosen whose interval
        happened to look best.
        """
        source = self.source
        return self._measure_against(
            source.folder, self.benchmark, cache=self.cache_dir / "served" / source.digest
        )

    @property
    def speedup(self) -> Interval:
        """The dense model's time for the same text over the candidate's, measured here."""
        return multiply(self.speed.speedup, self._token_ratio(self.source.folder))

    def champion_speedup(self) -> Interval:
        """The champion's time for the same text over the candidate's, measured on this machine.

        Latencies, prompt by prompt, times how many tokens the two need for `text`.
        """
        assert self.champion is not None
        folder = self.champion.folder
        ratio = self._measure_against(folder, self.champion_benchmark).speedup
        return multiply(ratio, self._token_ratio(folder))

    def _measure_against(
        self, folder: Path, settings: BenchmarkSettings, cache: Path | None = None
    ) -> SpeedComparison:
        """Another model, in the place of the dense one, beside the candidate."""
        folders = {"dense": folder, "pruned": self.candidate.folder}
        tokenizers = {side: loading.load_tokenizer(one) for side, one in folders.items()}
        prompts = tokenize_prompts(read_prompts(settings), tokenizers, as_chat=settings.chat)
        return measure_pair(
            folders["dense"],
            folders["pruned"],
            prompts,
            settings,
            cache=cache,
            device=self.device,
        )

    def _token_ratio(self, folder: Path) -> Interval:
        """How many tokens another model needs for `text`, over those that the candidate needs."""
        theirs, ours = (
            self._count_tokens(loading.load_tokenizer(one))
            for one in (folder, self.candidate.folder)
        )
        return token_ratio(theirs.tolist(), ours.tolist())

    def _count_tokens(self, tokenizer: Any) -> torch.Tensor:
        """Tokens of each document of `text` that are predicted in another tokenizer [documents]."""
        reencode = self._reencoder_to(tokenizer)
        blocks = zip(self.text.ids, self.text.owners, strict=True)
        documents = len(self.text.count_predicted())
        counts = torch.zeros(documents, dtype=torch.long)
        for ids, owners in blocks:
            counts += torch.bincount(split_block(ids, owners, reencode)[2], minlength=documents)
        return counts

    def _judge(self, folder: Path) -> DocumentLosses:
        own = loading.load_tokenizer(folder)
        reencode = self._reencoder_to(own)
        start = None if reencode is None else begin_as(own, self.tokenizer, reencode)
        return losses_by_document(self._load(folder), self.text, reencode, start=start)

    def _reencoder_to(self, own: Any) -> Reencode | None:
        """From the dense model's ids to another tokenizer's; None where they are the same."""
        if own.get_vocab() == self.tokenizer.get_vocab():
            return None
        for tokenizer in (own, self.tokenizer):
            read_vocabulary(tokenizer)
        return make_reencoder(self.tokenizer, own)

    def _load(self, folder: Path) -> Any:
        return loading.load_model(folder, device=self.device)


def begin_as(own: Any, dense: Any, reencode: Reencode) -> Reencode | None:
    """How a block's first token is spelled where a tokenizer puts one of its own before every text.

    Models that were trained with such a token are lost without it, whatever the dense model of
    another family begins with. None where there is none.
    """
    opening, theirs = opening_tokens(own), opening_tokens(dense)
    if not opening:
        return None

    def start(first: torch.Tensor) -> torch.Tensor:
        rest = [] if first.tolist() == theirs else reencode(first).tolist()
        return torch.tensor([*opening, *rest], dtype=torch.long)

    return start
