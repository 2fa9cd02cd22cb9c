"""What a user may set of the commands beside the trial."""

from dataclasses import dataclass, field

from prune_exp.settings.groups import TrackingSettings


@dataclass(kw_only=True)
class LimitSettings:
    """What the gates ask for."""

    blocks: int | None = None
    """Blocks of each text to be kept that no trial used, for the last judgement of quality; they
    must be of at least 12 documents. When null 32, or the run's own `data.heldout_blocks` where
    these are fewer: the text has hardly more."""
    max_perplexity_ratio: float | None = None
    """Most that the upper end of the perplexity ratio's interval may be; when null 1.1, or the
    run's own `quality.max_perplexity_ratio` where that is less."""
    min_speedup: float = 1.0
    """Least that the lower end of the speedup's interval may be, for equal text; measured again."""
    min_memory_reduction_pct: float = 0.0
    """Least that the lower end of the memory saving's interval may be; measured again."""
    pairs: int = 20
    """Least pairs of requests in which candidate and dense model are timed again, whatever the
    run's own benchmark was; as many prompts where there are so many."""
    new_tokens: int = 32
    """Least tokens generated in each of them."""
    max_logit_difference: float = 0.0
    """Most that logits may differ after loading the stored files in a fresh process."""
    champion_max_perplexity_ratio: float = 1.02
    """Most that the upper end of the perplexity ratio against the champion may be."""
    champion_min_speedup: float = 0.95
    """Least that the lower end of the speedup against the champion may be."""
    champion_pairs: int = 20
    """Least pairs of requests in the comparison with the champion, whatever the run's own
    benchmark was; as many prompts where there are so many."""
    champion_new_tokens: int = 32
    """Least tokens generated in each of them."""
    public_key: str | None = None
    """PEM file with the public key that the stored model must be signed for; when null, no
    signature is asked for."""
    resamples: int = 5000
    """Resamples behind every 95 % interval of times, of 12 pairs or more."""


@dataclass(kw_only=True)
class PromoteSettings:
    """One promotion."""

    run_id: str | None = None
    """A sweep, whose best run by its own rule is meant, a trial, or `latest`; when null, the model
    with the alias `candidate`, or else the latest sweep."""
    version: int | None = None
    """A registered version, instead of a run."""
    gates: list[str] = field(default_factory=list)
    """Gates to pass, by name; when empty all, that of the signature only with a key."""
    dry_run: bool = False
    """Judge and show, but write nothing."""
    other_base_model: bool = False
    """Let a model of another dense model take the place of the champion, or join its versions."""
    other_text: bool = False
    """Let a model that need not keep quality on all texts that the champion keeps take its place.
    The gates judge on the candidate's texts alone."""
    rollback: bool = False
    """Put the previous champion back instead."""
    cache_dir: str = "~/.cache/prune_exp"
    """Where converted models are kept."""
    limits: LimitSettings = field(default_factory=LimitSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass(kw_only=True)
class VerifySettings:
    """One look at the files of a registered model."""

    version: int | None = None
    """A registered version; the champion when null."""
    public_key: str | None = None
    """PEM file with the public key that the files must be signed for; when null, no signature is
    asked for."""
    output: str | None = None
    """Folder for the files that were checked, to be loaded from there; it must not exist yet. When
    null they are checked and left where they are."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass(kw_only=True)
class ShipSettings:
    """One stored model as files that people run."""

    run_id: str | None = None
    """A sweep, whose best run by its own rule is meant, a trial, or `latest`, instead of a
    version."""
    version: int | None = None
    """A registered version; the champion when null, or the candidate where there is none."""
    to: list[str] = field(default_factory=lambda: ["hf"])
    """What to write: `hf`, `onnx`, `openvino`, `gguf:f32`, `gguf:bf16`, `gguf:q8_0`,
    `gguf:q4_k_m`; `hub:USER/NAME` pushes all of it, and the checkpoint, to the hub."""
    output: str = "???"
    """Folder for the files; it must be empty or not exist yet."""
    text: str | None = None
    """UTF-8 text with a blank line between documents on which every file is compared with the
    checkpoint; when null what the trial held out."""
    positions: int = 64
    """Places in that text at which whole next-token distributions are compared."""
    max_kl: float = 1e-4
    """Most that the divergence from the checkpoint may be, in nats a token, of files that keep
    all bits of the weights."""
    max_kl_16_bit: float = 1e-3
    """The same of bf16 files."""
    max_kl_8_bit: float = 0.02
    """The same of files in 8 bits."""
    max_kl_4_bit: float = 0.5
    """The same of files in 4 bits."""
    same_chats: bool = True
    """Keep no file whose runtime encodes the checkpoint's chat template in another way."""
    rounds: int = 4
    """How often, twice at least, every file that is kept is timed in turns with the dense model's
    of the same kind; 0 does not, and neither is it done where the dense model is not here."""
    threads: int = 1
    """Threads of each runtime."""
    private: bool = True
    """Let only its owner see a repository of the hub that is made for `hub:USER/NAME`."""
    dry_run: bool = False
    """Show what would be written, and write nothing."""
    cache_dir: str = "~/.cache/prune_exp"
    """Where converted models are kept."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass(kw_only=True)
class RivalSettings:
    """Stored models and their dense model, each quantized, at equal size."""

    versions: list[int] = field(default_factory=list)
    """Registered versions that compete; the champion, or else the candidate, where neither these
    nor `run_ids` are given."""
    run_ids: list[str] = field(default_factory=list)
    """Trials that compete."""
    kinds: list[str] = field(default_factory=lambda: ["bf16", "q8_0", "q4_k_m"])
    """Kinds of GGUF file that each model is written as; the dense one's first kind is what all
    are compared with."""
    sizes_mib: list[float] = field(default_factory=lambda: [60.0, 100.0, 150.0, 270.0])
    """Sizes up to which the best file is named, in MiB."""
    blocks: int = 16
    """Most blocks of each kind of held-out text that judge; no more than judged the trials."""
    output: str = "???"
    """Folder for the table and the plot; it must be empty or not exist yet."""
    rounds: int = 6
    """How often every file is timed, in turn."""
    new_tokens: int = 64
    """Tokens that follow each of five prompts."""
    threads: int = 1
    """Threads of llama.cpp."""
    cache_dir: str = "~/.cache/prune_exp"
    """Where converted models are kept."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass(kw_only=True)
class RebuildSettings:
    """One model to make again."""

    run_id: str = "???"
    """The trial, or `latest`."""
    output: str = "???"
    """Folder for the checkpoint; it must not exist yet."""
    allow_different: bool = False
    """Keep the checkpoint even where its weights are not those that the trial recorded."""
    cache_dir: str = "~/.cache/prune_exp"
    """Where converted models and calibration statistics are kept."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


@dataclass(kw_only=True)
class ReportSettings:
    """One report to make again."""

    run_id: str = "???"
    """A sweep, whose best run is reported, a trial, or `latest`."""
    output: str = "report"
    """Folder for its files; those of an earlier report are replaced."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
