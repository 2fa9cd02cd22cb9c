"""What the gates look at, worked out when a gate first asks for it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prune_exp import benchmark, models, sources
from prune_exp.candidates import Candidate
from prune_exp.commands import LimitSettings
from prune_exp.corpus import TokenBlocks, load_corpus, load_reserved
from prune_exp.device import device_of
from prune_exp.paired import exp_mean_difference
from prune_exp.params import unflatten
from prune_exp.prompts import Prompts, read_prompts
from prune_exp.quality import block_losses
from prune_exp.recoding import reencoder
from prune_exp.records import Interval
from prune_exp.settings import SettingError, Settings
from prune_exp.tracked import PREFIX, text_digests
from prune_exp.vocabulary import read_vocabulary
from prune_exp.written import complete


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A candidate, the champion it is up against, and what they make of the same text."""

    candidate: Candidate
    champion: Candidate | None
    limits: LimitSettings
    cache_dir: Path

    @cached_property
    def settings(self) -> Settings:
        """The candidate's trial as it was configured."""
        return unflatten(self.candidate.trial.params)

    @cached_property
    def source(self) -> sources.ModelSource:
        """The dense model.

        Raises:
            SettingError: it is missing, or not the one that the trial pruned.
        """
        return dense_source(self.settings, self.candidate.trial.tags, self.cache_dir)

    @cached_property
    def tokenizer(self) -> Any:
        """The dense model's tokenizer."""
        return models.load_tokenizer(self.source.folder)

    @cached_property
    def text(self) -> TokenBlocks:
        """Blocks that no trial used, in the dense model's tokens.

        Raises:
            SettingError: the text is missing, too short, or not the one that the trial used.
        """
        data = self.settings.data
        run_id = self.candidate.trial.run_id
        check_text(self.settings, self.source, self.tokenizer, self.cache_dir, run_id)
        return load_reserved(data, self.tokenizer, blocks=self.limits.blocks)

    @cached_property
    def dense_losses(self) -> list[float]:
        """Mean loss of each block of `text`, in nats."""
        return block_losses(self._load(self.source.folder), self.text)[0]

    @cached_property
    def losses(self) -> list[float]:
        """The candidate's, per token of the dense model's tokenizer."""
        return self._losses_of(self.candidate.folder)

    @cached_property
    def champion_losses(self) -> list[float]:
        """The champion's, likewise."""
        assert self.champion is not None
        return self._losses_of(self.champion.folder)

    def perplexity_ratio(self, ours: list[float], theirs: list[float]) -> Interval:
        """Perplexity over another's, paired by block."""
        return exp_mean_difference(ours, theirs, resamples=self.limits.resamples)

    def champion_speedup(self) -> Interval:
        """The champion's latency over the candidate's, prompt by prompt on this machine."""
        assert self.champion is not None
        folders = {"dense": self.champion.folder, "pruned": self.candidate.folder}
        settings = self.settings.benchmark
        texts = read_prompts(settings)
        prompts: Prompts = {}
        for side, folder in folders.items():
            tokenizer = models.load_tokenizer(folder)
            prompts[side] = [tokenizer(text)["input_ids"] for text in texts]
        device = device_of(self.settings.device)
        sides = folders["dense"], folders["pruned"]
        return benchmark.measure(*sides, prompts, settings, device=device).speedup

    def _losses_of(self, folder: Path) -> list[float]:
        own = models.load_tokenizer(folder)
        reencode = None
        if own.get_vocab() != self.tokenizer.get_vocab():
            for one in (own, self.tokenizer):
                read_vocabulary(one)
            reencode = reencoder(self.tokenizer, own)
        return block_losses(self._load(folder), self.text, reencode)[0]

    def _load(self, folder: Path) -> Any:
        return models.load(folder, device=device_of(self.settings.device))


def dense_source(settings: Settings, tags: dict[str, str], cache_dir: Path) -> sources.ModelSource:
    """The dense model of a trial.

    Raises:
        SettingError: it is missing, or not the one that the trial pruned.
    """
    source = sources.locate(settings.model, cache_dir)
    recorded = tags.get(f"{PREFIX}model_digest")
    if source.digest != recorded:
        raise SettingError(
            f"the dense model in {source.folder} has digest {source.digest}, the trial pruned"
            f" {recorded}; put the same model there"
        )
    return source


def check_text(
    settings: Settings, source: sources.ModelSource, tokenizer: Any, cache_dir: Path, run_id: str
) -> None:
    """Raises SettingError unless the text gives the blocks that a trial recorded."""
    corpus = load_corpus(settings.data, tokenizer, seed=settings.seed)
    corpus = complete(corpus, settings, source, tokenizer, cache_dir)
    found = {"calibration": corpus.calibration.digest, "heldout": corpus.heldout.digest}
    recorded = text_digests(run_id)
    for role, digest in found.items():
        if recorded.get(role) != digest:
            raise SettingError(
                f"the {role} text from {corpus.calibration.source} has digest {digest}, the"
                f" trial used {recorded.get(role)}; put the same text there"
            )
