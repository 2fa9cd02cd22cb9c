"""What a user may set, one dataclass a group of `conf/`; every room is given its own group."""

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from prune_exp.settings.choices import LARGEST_KEPT, UNITS
from prune_exp.settings.errors import SettingError


@dataclass(kw_only=True)
class ModelSettings:
    name: str = ""
    """Short name; the registered model is called `pruned-<name>` unless told otherwise. That of the
    hub id or the folder when empty."""
    package: str | None = None
    """Installed Python package that carries the model as a GGUF file."""
    path: str | None = None
    """Folder with a Hugging Face checkpoint (config.json, safetensors, tokenizer)."""
    hub_id: str | None = None
    """Model id on the Hugging Face hub, such as `HuggingFaceTB/SmolLM2-135M`."""
    revision: str | None = None
    """Commit of `hub_id`; required with it, so that a run means the same weights for ever."""
    base_model: str | None = None
    """Hub id of the dense model, for the model card; `hub_id` when null."""
    license: str | None = None
    """The dense model's licence, by the hub's short name (apache-2.0), for the model card."""
    export_dtype: str = "auto"
    """Type of the weights that are written: float32, bfloat16, float16, or auto, which is that of
    the dense checkpoint. Pruning computes in float32, quality is judged on what was written."""
    offload: bool = False
    """Leave the layers on disk and read each of them when it is calibrated, cut and refit, for a
    model that is larger than the device's memory. Slower; without training after pruning, plans to
    rehearse, elections, tasks, weight masks, text that the model writes, and promotion by the same
    command."""


@dataclass(kw_only=True)
class DataSettings:
    package: str | None = None
    """Installed Python package that carries the text."""
    path: str | None = None
    """A UTF-8 text file, or with `package` the file's path inside the package."""
    mix: list[str] = field(default_factory=list)
    """Several files in place of `path`, each with its share of the calibration blocks, such as
    `[a.txt:2, b.txt:1]`; `pkg://PACKAGE/FILE` names a file inside an installed package. Training
    after pruning reads all their documents, whatever the shares."""
    stretch_characters: int | None = None
    """Text that only blank lines part is cut at line ends into stretches of at least so many
    characters, which count as documents: so neighbouring paragraphs mostly serve one end. A longer
    article is cut all the same, and parts of it may calibrate while others judge. Null: every blank
    line parts two documents."""
    calibration: str = "documents"
    """Where calibration text comes from. documents: the file. generated: the dense model writes it.
    Held-out text is always the file's."""
    generation_temperature: float = 1.0
    """Temperature at which the dense model writes calibration text."""
    context_tokens: int = 512
    """Length of a block of text, in tokens."""
    calibration_blocks: int = 64
    """Blocks that the refit sees; it gains from many."""
    voting_blocks: int = 16
    """How many of the calibration blocks the voters see too."""
    gradient_blocks: int = 4
    """How many of the calibration blocks also get a backward pass (the slow part)."""
    heldout_blocks: int = 32
    """Blocks of every kind of text that quality is measured on; no document gives blocks to both.
    Files of a mix and further domains may have fewer, but not fewer than 12. Whether quality is
    kept is said where they are of at least 12 documents."""

    @property
    def text_name(self) -> str:
        """What the text is called, without the user's folders."""
        if self.mix:
            return " + ".join(PurePath(entry).name.partition(":")[0] for entry in self.mix)
        name = PurePath(str(self.path)).name
        return f"{self.package}/{name}" if self.package else name


@dataclass(kw_only=True)
class PruningSettings:
    method: str = "structured"
    """structured: units are removed. weight_masks, stochastic: single weights become zero, and
    nothing gets smaller."""
    voters: list[str] = field(default_factory=list)
    """Importance criteria that vote; a criterion that cannot judge a kind of unit abstains."""
    ballot: str = "adaptive"
    """adaptive: depth grows until the budget is met. fixed: all nominate the same share."""
    units: list[str] = field(default_factory=lambda: list(UNITS))
    """Kinds of unit that may be removed: layers, heads, mlp, vocab."""
    vocab_share: float = 0.0
    """Share of the budget taken by the vocabulary, in [0, 1]; more of it goes only where the other
    kinds cannot meet the request."""
    depth_share: float = 0.5
    """Share of the rest of the budget taken by whole layers, in [0, 1]."""
    heads_share: float = 0.0
    """Share of what then remains taken by heads, in [0, 1]; MLP channels close the budget."""
    head_unit: str = "group"
    """group: a key/value head with its query heads. query: one query head in every group."""
    keep_share: float = 0.25
    """Share of the MLP channels and of the tokens, in [0, 1], that stay as long as more layers can
    go instead."""
    width_multiple: int | None = None
    """The MLP width left is a multiple of this. Null: of 32, which 4-bit and 8-bit formats need,
    where that changes the split of the budget by less than a tenth (fewer tokens go where that
    helps); of 256, which GGUF's K-quants need, where by less than another 0.2 %; of any number
    otherwise, which is said."""
    refit: bool = True
    """Re-solve the weights that read the removed units by least squares."""
    refit_damping: float = 3e-2
    """Ridge towards the original weights, as a share of the mean diagonal of the Gram matrix."""
    refit_towards_dense: float = 0.4
    """Share, in [0, 1], of the refit's target that is the dense model's residual stream, times the
    share of the MLP channels that stay; the rest is what the untouched block makes of the pruned
    model's stream."""
    reconstruct_epochs: int = 20
    """Times that the refit's text is read to train the layer before removed ones to do what they
    did; 0: only least squares. Needs the refit."""
    reconstruct_step: float = 0.01
    """Adam's largest step in that training, as a share of each weight's root mean square; it falls
    to 0 over the epochs."""
    rehearse: list[float] = field(default_factory=list)
    """Depth shares to rehearse besides `depth_share`, each with every choice of layers that
    `rehearse_layers` tries; without that with the layers voted out and with the run of layers that
    changes the residual stream least. The plan whose refit on a few blocks has the least loss on a
    few others is carried out. Empty: `depth_share` it is."""
    rehearse_vocab: list[float] = field(default_factory=list)
    """Vocabulary shares to rehearse besides `vocab_share`, at the depth share that lost least; then
    those halfway from the best one to its neighbours."""
    rehearse_layers: bool = True
    """Rehearse who chooses the whole layers that go: the vote, each of its voters alone, the run of
    layers that changes the residual stream least, and a search that settles contested layers one
    after another by what is lost without them. False: the vote decides alone, or with shares to
    rehearse the vote or that run. So it is where nothing is refit, under a fixed ballot, where
    there is only one block of calibration text, and where layers stay on disk."""
    elect: bool = False
    """Let every voter alone, and every number of voters that must agree, stand for election on MLP
    channels beside the vote: their plans are refit on some blocks and judged on others that no
    voter has read. So does the plan of a jury, which settles layer by layer what they do not agree
    on, by what it costs to take it out. Where the vote cannot be told from the best, it is carried
    out."""
    refit_dtype: str = "auto"
    """Precision of the forward passes that the refit needs: float32, bfloat16, or auto, which is
    bfloat16 where the processor is faster in it. What voters read stays in float32, least squares
    in float32 and float64."""
    masks: int = 32
    """Random masks that `stochastic` tries."""
    elite: int = 5
    """How many of them, those with the least calibration loss, vote."""
    redundancy: float = 0.95
    """Warn when two voters rank units with at least this mean rank correlation."""

    @property
    def rehearses_shares(self) -> bool:
        """Whether other depth or vocabulary shares are tried than those that are named."""
        return bool(self.rehearse or self.rehearse_vocab)

    @property
    def knows_shape(self) -> bool:
        """Whether the request alone says how much of each kind of unit goes."""
        return self.ballot == "adaptive" and not self.rehearses_shares


@dataclass(kw_only=True)
class RecoverySettings:
    name: str = "none"
    """Training after pruning: none, or distill (towards the dense model's distributions)."""
    minutes: float | None = None
    """Budget in minutes of steps and the judgements between them; the dense model's pass over the
    text, which is kept for later trials, is not counted. Training ends with the first budget that
    is used up."""
    tokens: int | None = None
    """Budget in training tokens."""
    text: str = "calibration"
    """calibration: all documents that calibrate, never held-out ones. generated: text sampled from
    the dense model. both: generated text after every document has been read."""
    context_tokens: int = 512
    """Length of a block of training text, in tokens."""
    batch_blocks: int = 1
    """Blocks in a step."""
    train_embeddings: bool = False
    """Train the embeddings and the language-model head too; not with adapters."""
    learning_rate: float = 2e-4
    """AdamW's largest step size; cosine decay over the budget follows the warm-up."""
    embedding_learning_rate: float = 1e-5
    """The same for the embeddings and the head, where they are trained. Every step moves every
    token's row, also of tokens that are not in its text, so it is smaller."""
    warmup_share: float = 0.1
    """Share of the budget, in [0, 1), over which the learning rate rises."""
    weight_decay: float = 0.0
    """Decay of the layers' matrices; not of norms, biases, embeddings and the head."""
    gradient_clip: float = 1.0
    """Largest norm of a step's gradient."""
    validation_blocks: int = 8
    """Blocks that choose the best weights, from documents that training does not read."""
    evaluate_every: int = 40
    """Steps between judgements on the validation blocks; training can go on from each of them
    after a kill."""
    lora_rank: int = 0
    """Rank of adapters that are trained in place of the weights and merged before export; 0 trains
    all weights."""
    dtype: str = "auto"
    """Type of the matrix products in training: float32, bfloat16, or auto, which is bfloat16 where
    the processor is faster in it; elsewhere it may be several times slower. Weights stay
    in fp32."""
    generated_blocks: int = 64
    """Blocks that the dense model writes, each from the first tokens of a training block."""
    generation_temperature: float = 1.0
    """Temperature of that sampling."""


@dataclass(kw_only=True)
class RuntimeSettings:
    dtype: str = "float32"
    """Type of weights, activations, keys and values: float32, bfloat16, or auto, which is bfloat16
    where the processor computes in it and the backend can use it."""
    cache: str = "dynamic"
    """Keys and values under `backend: transformers`: dynamic grows by every token, static has room
    for the longest request from the start."""
    compile: bool = False
    """Compile the decoding step (torch.compile) under `backend: transformers`, on a GPU to one CUDA
    graph; needs `cache: static` and a C++ compiler, and is done before the start-up time ends."""


@dataclass(kw_only=True)
class BenchmarkSettings:
    enabled: bool = True
    """Measure latency, memory and throughput; without it a trial makes no claim about speed."""
    backend: str = "transformers"
    """What serves both models: transformers, onnxruntime, openvino or llama_cpp. The last three
    serve an export that is made first and are installed as extras (onnx, openvino, gguf)."""
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    """How both models are served."""
    prompts: int = 20
    """Number of test prompts, from the ones that ship with the package or `prompts_path`."""
    chat: bool = False
    """Ask the prompts as messages of a user, by the model's chat template."""
    prompts_path: str | None = None
    """A UTF-8 text file with one prompt a line."""
    new_tokens: int = 32
    """Tokens generated for every prompt."""
    warmup_requests: int = 1
    """Requests that each model answers, besides a batch of every kind, before the clock counts."""
    turns: str = "request"
    """How often the two models take turns: after every token, or after every request. By token is
    steadier on a busy machine; a model that fits into the processor's cache finds it cold."""
    max_rounds: int = 1
    """Times that every prompt is asked of both models, unless what follows stops earlier."""
    target_ci_pct: float | None = None
    """Stop once the 95 % interval of the latency ratio is narrower than this percentage of it."""
    budget_s: float | None = None
    """Stop once the requests have taken so many seconds."""
    min_pairs: int = 12
    """Neither of the two stops before so many pairs of requests."""
    batch_sizes: list[int] = field(default_factory=lambda: [8])
    """Sequences generated together, one throughput measurement for each number."""
    prompt_tokens: list[int] = field(default_factory=list)
    """Prompt lengths of the batches, each with every size; when empty, the test prompts cut to the
    shortest of them."""
    batch_rounds: int = 6
    """Pairs of batch requests of every kind: an even number, so that either model goes first as
    often."""
    memory_rounds: int = 3
    """Fresh processes of each model that memory is measured in, the timed one included."""
    threads: int | None = None
    """CPU threads of each model's process; when null, the cores this process may use, whole ones of
    a container's or a job's quota."""
    bootstrap_resamples: int = 5000
    """Resamples behind every 95 % interval of 12 pairs or more."""
    timeout_s: float = 600.0
    """A model's process that does not answer a request for this long is given up."""

    @property
    def batches(self) -> dict[str, tuple[int, int | None]]:
        """Size and prompt length of every kind of batch, by the label in its metrics' names."""
        if not self.prompt_tokens:
            return {f"b{size}": (size, None) for size in self.batch_sizes}
        return {
            f"b{size}_p{tokens}": (size, tokens)
            for size in self.batch_sizes
            for tokens in self.prompt_tokens
        }


@dataclass(kw_only=True)
class QualitySettings:
    enabled: bool = True
    """Measure quality on held-out text; without it nothing is called maintained."""
    max_perplexity_ratio: float = 1.1
    """Quality counts as maintained up to this perplexity, as a multiple of the dense model's, on
    every text of `keep_on`."""
    domains: list[str] = field(default_factory=list)
    """Files of further kinds of text that are judged beside those that calibrate;
    `pkg://PACKAGE/FILE` names a file inside an installed package."""
    keep_on: list[str] = field(default_factory=list)
    """Texts, by their file's name without the ending, on which quality must be maintained; those
    that calibrate when empty."""
    tasks: list[str] = field(default_factory=list)
    """Tasks whose questions both models answer: names of lm-eval's tasks or of files NAME.jsonl;
    plain_facts ships with the package."""
    tasks_path: str | None = None
    """Folder with files NAME.jsonl, a question a line with `question`, `choices` and the number of
    the right one as `answer`, or with lm-eval's own YAML files."""
    task_questions: int | None = None
    """Most questions of each task, the first ones; all when null."""


@dataclass(kw_only=True)
class GoalSettings:
    """What the user wants, in the user's units; each becomes a constraint of the search."""

    perplexity_ratio: float | None = None
    """Most perplexity, as a multiple of the dense model's. It is `quality.max_perplexity_ratio`
    too, so that the best trial is the fastest of those that surely keep it."""
    latency_ms: float | None = None
    """Most time for one request of the benchmark, the median, from the prompt to the last token."""
    memory_mib: float | None = None
    """Most memory of a process that serves the model, at its peak."""
    file_mib: float | None = None
    """Largest size of the weights' files."""
    speedup: float | None = None
    """Least speedup of a request over the dense model."""


DEFAULT_OBJECTIVES = ("latency_ratio", "bits_per_byte_increase")
"""What is searched for unless something else is said."""


@dataclass(kw_only=True)
class SearchSettings:
    study_name: str | None = None
    """Name of the Optuna study. The same name goes on where it stopped; a new study when null."""
    storage: str | None = None
    """Optuna storage URL, such as postgresql://...; a journal under tracking.root when null."""
    sampler: str = "tpe"
    """How points in intervals are chosen: tpe (multivariate), random, nsgaii, nsgaiii, gp, qmc or
    cmaes; or largest_kept, which looks for the largest sparsity that keeps quality, one trial after
    the other, and ends when another would gain little; or one of OptunaHub as
    `hub:PACKAGE@COMMIT`, such as `hub:samplers/auto_sampler@` and a commit of its registry."""
    sampler_args: Any = None
    """Arguments of that sampler by Optuna's names, as in `{n_startup_trials: 5}`."""
    seed: int = 0
    """Seeds the sampler."""
    warm_start: list[str] = field(default_factory=list)
    """Studies of the same storage that searched the same space: their finished trials are known to
    the sampler from the start, the best first, and are not run again."""
    start_at_ends: bool = True
    """A search first tries both ends of the sparsities, with its other settings as configured,
    before the sampler chooses; not with `warm_start`."""
    n_trials: int = 20
    """Trials in total, those of an earlier start of the study included. Lists set their own."""
    minutes: float | None = None
    """No trial is started once a start of the study has taken so long; those that run come to their
    end."""
    parallel: int | None = None
    """Trials that run at a time; when null, one under the basic launcher and as many as this
    machine's cores and free memory allow under others."""
    max_failures: int | None = None
    """The sweep stops once this many trials have failed."""
    objectives: list[str] = field(default_factory=list)
    """Metrics to minimize, or to maximize as in `speedup:maximize`; several give a Pareto front."""
    constraints: list[str] = field(default_factory=list)
    """Metrics and the most they may be in a feasible trial, as in `perplexity_ratio:5`."""
    stop: bool = True
    """End a trial of a sweep as soon as it surely breaks a constraint: it is not timed, and not
    trained where its sizes alone say so. Not under largest_kept, which learns from every trial."""
    space: list[str] = field(default_factory=list)
    """Sweeps in Hydra's grammar, such as `sparsity=interval(0.2, 0.7)`; used by `-m` alone."""

    @property
    def limits(self) -> dict[str, float]:
        """Each constraint's metric and the most it may be.

        Raises:
            SettingError: a constraint has no number.
        """
        pairs = [one.partition(":") for one in self.constraints]
        try:
            return {metric.strip(): float(most) for metric, _, most in pairs}
        except ValueError:
            raise SettingError(
                f"search.constraints={','.join(self.constraints)} is not metric:most; try"
                " search.constraints=[perplexity_ratio:5]"
            ) from None

    @property
    def stopping_limits(self) -> dict[str, float]:
        """The constraints that end a trial which cannot meet them."""
        return self.limits if self.stop and self.sampler != LARGEST_KEPT else {}

    @property
    def directions(self) -> dict[str, str]:
        """Each objective's metric and whether to minimize or maximize it."""
        pairs = (one.partition(":") for one in self.objectives)
        return {metric.strip(): way.strip() or "minimize" for metric, _, way in pairs}


@dataclass(kw_only=True)
class TrackingSettings:
    root: str = "mlruns"
    """Folder of the local store: mlflow.db, artifacts/, outputs."""
    uri: str | None = None
    """MLflow tracking URI; when null and no `root` is given, that of MLFLOW_TRACKING_URI, or else
    the SQLite store under `root`."""
    experiment: str = "prune_exp"
    """MLflow experiment that the runs belong to; that of MLFLOW_EXPERIMENT_NAME when not given."""
    best: str = "speedup_if_maintained"
    """How the best run of a sweep is chosen: speedup_if_maintained, size_if_maintained, quality or
    speedup."""
    register: bool = True
    """Register the best run's model with the alias `candidate`."""
    promote: bool = False
    """Judge the best run's model by all gates as soon as it is registered, and make it the champion
    when it passes; exit code 1 when it does not. A `quality.max_perplexity_ratio` that allows more
    than the default is the gates' limit, too."""
    registered_model: str | None = None
    """Name in the registry; `pruned-<model.name>` when null."""
    log_models: str = "best"
    """Whose weights are stored: best, all or none."""
    serve_as: str = "text"
    """What `mlflow models serve` takes for a stored model. text: strings. chat: messages, as in
    MLflow's llm/v1/chat; needs a tokenizer with a chat template. completions: a prompt, as in
    llm/v1/completions."""
    system_metrics: bool = False
    """Track the machine's load, memory, disk and network, and a GPU's where MLflow can read it, as
    MLflow's system metrics while a trial runs; not while clocks do."""
    signing_key: str | None = None
    """PEM file with an elliptic-curve private key that signs stored models; unsigned when null."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of your own for the runs of a sweep and of its trials, as in `tracking.tags.team=red` or
    `tracking.tags={team: red, ticket: 12}`."""
