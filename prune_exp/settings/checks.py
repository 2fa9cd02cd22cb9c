"""Refuses settings that cannot work: what was given, what is allowed, what to type."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from prune_exp.settings.choices import (
    BACKENDS,
    BEST_RULES,
    CALIBRATIONS,
    DEVICES,
    DIRECTIONS,
    EXPORT_DTYPES,
    LOG_MODELS,
    RECOVERIES,
    RECOVERY_DTYPES,
    RECOVERY_TEXTS,
    RUNTIME_CACHES,
    RUNTIME_DTYPES,
    SERVED_AS,
    TURNS,
    check_name,
    check_one_of,
    check_sampler_name,
)
from prune_exp.settings.errors import SettingError
from prune_exp.settings.goals import check_goals
from prune_exp.settings.groups import BenchmarkSettings, RecoverySettings
from prune_exp.settings.minima import check_minima
from prune_exp.settings.offload_checks import check_offload
from prune_exp.settings.pruning_checks import check_election, check_pruning
from prune_exp.settings.schema import Settings
from prune_exp.settings.surroundings import fill_in
from prune_exp.settings.unfilled import check_filled


def read_config(config: Any, hydra: Any = None) -> Settings:
    """Turns a composed config into checked settings; `hydra` is Hydra's own node, where it ran.

    Raises:
        SettingError: a value is outside what it may be.
    """
    if hydra is not None:
        check_filled(config, hydra)
    settings = _complete_settings(config, hydra)
    check_settings(settings)
    return settings


def _complete_settings(config: Any, hydra: Any) -> Settings:
    from omegaconf import OmegaConf

    settings = OmegaConf.to_object(config)
    assert isinstance(settings, Settings)
    fill_in(settings, hydra)
    return settings


def settings_of(config: Any, *, checked: bool = False) -> Settings:
    """The settings of a full config, Hydra's own node left out.

    Raises:
        SettingError: when `checked`, and a value is outside what it may be.
    """
    import copy

    from omegaconf import open_dict, read_write

    plain = copy.deepcopy(config)
    with read_write(plain), open_dict(plain):
        del plain["hydra"]
    read = read_config if checked else _complete_settings
    return read(plain, config.hydra)


def check_settings(settings: Settings) -> None:
    """Refuses values that cannot work, before anything is loaded or written.

    Raises:
        SettingError: says what was given, what is allowed and what to type.
    """
    check_known(settings)
    _check_open_interval("sparsity", settings.sparsity, example="sparsity=0.5")
    if not 0 < settings.vote_threshold <= 1:
        raise SettingError(
            f"vote_threshold={settings.vote_threshold:g} is not in (0, 1]: it is the share"
            " of voters that must agree; try vote_threshold=0.5"
        )
    check_one_of("device", settings.device, DEVICES)
    check_pruning(settings.pruning, settings.data.calibration_blocks)
    check_election(settings.pruning, settings.data)
    check_name("model.name", settings.model.name)
    check_one_of("model.export_dtype", settings.model.export_dtype, EXPORT_DTYPES)
    if settings.tracking.registered_model is not None:
        check_name("tracking.registered_model", settings.tracking.registered_model)
    _check_sources(settings)
    check_one_of("data.calibration", settings.data.calibration, CALIBRATIONS)
    check_goals(settings)
    check_minima(settings)
    _check_batches(settings.benchmark)
    check_one_of("benchmark.turns", settings.benchmark.turns, TURNS)
    _check_runtime(settings.benchmark)
    check_sampler_name(settings.search.sampler)
    if not isinstance(settings.search.sampler_args, dict | None):
        raise SettingError(
            f"search.sampler_args={settings.search.sampler_args} is no names with values; type"
            " search.sampler_args='{n_startup_trials: 5}'"
        )
    _ = settings.search.limits
    for metric, direction in settings.search.directions.items():
        check_one_of(f"search.objectives: {metric}", direction, DIRECTIONS)
    check_one_of("tracking.best", settings.tracking.best, BEST_RULES)
    check_one_of("tracking.log_models", settings.tracking.log_models, LOG_MODELS)
    check_one_of("tracking.serve_as", settings.tracking.serve_as, SERVED_AS)
    if settings.tracking.root.startswith("~"):
        raise SettingError(
            f"tracking.root={settings.tracking.root} begins with ~, which only a shell replaces;"
            f" use tracking.root={Path(settings.tracking.root).expanduser()}"
        )
    _check_promotion(settings)
    _check_recovery(settings.recovery, settings.pruning.method)
    check_offload(settings)


def _check_promotion(settings: Settings) -> None:
    tracking = settings.tracking
    if not tracking.promote:
        return
    if not tracking.register or tracking.log_models == "none":
        raise SettingError(
            "tracking.promote=true needs a registered model; use tracking.register=true and"
            " tracking.log_models=best, or leave it out"
        )
    if not settings.benchmark.enabled or not settings.quality.enabled:
        raise SettingError(
            "tracking.promote=true needs speed and quality to be measured; use benchmark=default"
            " and quality=default, or leave it out"
        )


def check_known(settings: Any, prefix: str = "") -> None:
    """Raises SettingError where Hydra's `+` has put something that is no setting."""
    known = {one.name for one in fields(settings)}
    for name, value in vars(settings).items():
        if name not in known:
            raise SettingError(f"{prefix}{name} is not a setting; take it out")
        if is_dataclass(value):
            check_known(value, f"{prefix}{name}.")


def _check_open_interval(name: str, value: float, *, example: str) -> None:
    if not 0 < value < 1:
        raise SettingError(
            f"{name}={value:g} is not between 0 and 1 (both excluded); try {example}"
        )


def _check_batches(benchmark: BenchmarkSettings) -> None:
    if benchmark.enabled and not benchmark.batch_sizes:
        raise SettingError("benchmark.batch_sizes is empty; try benchmark.batch_sizes=[8]")
    rounds = benchmark.batch_rounds
    if rounds % 2:
        raise SettingError(
            f"benchmark.batch_rounds={rounds} is odd, so one model would go first more often than"
            f" the other; use benchmark.batch_rounds={rounds + 1}"
        )


def _check_runtime(benchmark: BenchmarkSettings) -> None:
    runtime = benchmark.runtime
    backend = benchmark.backend
    check_one_of("benchmark.backend", backend, BACKENDS)
    check_one_of("benchmark.runtime.dtype", runtime.dtype, RUNTIME_DTYPES)
    check_one_of("benchmark.runtime.cache", runtime.cache, RUNTIME_CACHES)
    if backend != "transformers" and (runtime.compile or runtime.cache != "dynamic"):
        raise SettingError(
            f"benchmark.backend={backend} has its own cache and compiles what it needs; leave out"
            " benchmark.runtime.cache and benchmark.runtime.compile"
        )
    if runtime.compile and runtime.cache != "static":
        raise SettingError(
            "benchmark.runtime.compile=true needs a cache whose size does not change; type"
            " benchmark.runtime.cache=static too"
        )


def _check_recovery(recovery: RecoverySettings, method: str) -> None:
    check_one_of("recovery.name", recovery.name, RECOVERIES)
    check_one_of("recovery.text", recovery.text, RECOVERY_TEXTS)
    check_one_of("recovery.dtype", recovery.dtype, RECOVERY_DTYPES)
    if not 0 <= recovery.warmup_share < 1:
        raise SettingError(
            f"recovery.warmup_share={recovery.warmup_share:g} is not in [0, 1); try"
            " recovery.warmup_share=0.05"
        )
    if recovery.name == "none":
        return
    if method != "structured":
        raise SettingError(
            f"recovery={recovery.name} would fill the zeros of pruning.method={method} again; use"
            " recovery=none or pruning.method=structured"
        )
    if recovery.lora_rank and recovery.train_embeddings:
        raise SettingError(
            f"recovery.lora_rank={recovery.lora_rank} trains adapters of the layers, and no"
            " embeddings; use recovery.train_embeddings=false or recovery.lora_rank=0"
        )
    if recovery.minutes is None and recovery.tokens is None:
        raise SettingError(
            f"recovery={recovery.name} needs a budget; give recovery.minutes=15 or"
            " recovery.tokens=100000, or both"
        )
    batch = recovery.batch_blocks * recovery.context_tokens
    if recovery.tokens is not None and recovery.tokens < batch:
        raise SettingError(
            f"recovery.tokens={recovery.tokens} is less than one step of {batch}"
            " (recovery.batch_blocks * recovery.context_tokens); use"
            f" recovery.tokens={batch} or more"
        )


def _check_sources(settings: Settings) -> None:
    model = settings.model
    if sum(source is not None for source in (model.package, model.path, model.hub_id)) != 1:
        raise SettingError(
            "the model needs exactly one source: model=smollm2_135m, or model=folder"
            " model.path=DIR, or model=hub model.hub_id=ID model.revision=COMMIT"
        )
    if model.hub_id is not None and not model.revision:
        raise SettingError(
            f"model.hub_id={model.hub_id} has no revision; pin one with model.revision=COMMIT"
        )
    data = settings.data
    if data.path is None and not data.mix:
        raise SettingError("the text needs a file: data=mixed, or data=file data.path=FILE")
    if data.path is not None and data.mix:
        alone = "data.mix=[]" if data.package else f"data=file data.path={data.path}"
        raise SettingError(
            f"data.path={data.path} and data.mix={','.join(data.mix)} are both given; for"
            f" that file alone type {alone}, for the others data.path=null"
        )
