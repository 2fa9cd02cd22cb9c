"""The least that each number among the settings may be."""

from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings


def check_minima(settings: Settings) -> None:
    """Raises SettingError for a number that is too small."""
    for name, value, least in _list_minima(settings):
        if value is not None and value < least:
            raise SettingError(f"{name}={value:g} is too small; use {name}={least:g} or more")


def _list_minima(settings: Settings) -> list[tuple[str, float | None, float]]:
    data = settings.data
    benchmark = settings.benchmark
    recovery = settings.recovery
    return [
        ("data.context_tokens", data.context_tokens, 8),
        ("data.generation_temperature", data.generation_temperature, 1e-2),
        ("data.calibration_blocks", data.calibration_blocks, 1),
        ("data.voting_blocks", data.voting_blocks, 1),
        ("data.gradient_blocks", data.gradient_blocks, 1),
        ("data.heldout_blocks", data.heldout_blocks, 2),
        ("data.stretch_characters", data.stretch_characters, 1),
        ("pruning.masks", settings.pruning.masks, 2),
        ("pruning.elite", settings.pruning.elite, 1),
        ("pruning.width_multiple", settings.pruning.width_multiple, 1),
        ("pruning.refit_damping", settings.pruning.refit_damping, 1e-8),
        ("pruning.reconstruct_epochs", settings.pruning.reconstruct_epochs, 0),
        ("pruning.reconstruct_step", settings.pruning.reconstruct_step, 1e-6),
        ("recovery.minutes", recovery.minutes, 1e-3),
        ("recovery.context_tokens", recovery.context_tokens, 16),
        ("recovery.batch_blocks", recovery.batch_blocks, 1),
        ("recovery.learning_rate", recovery.learning_rate, 1e-8),
        ("recovery.embedding_learning_rate", recovery.embedding_learning_rate, 0),
        ("recovery.weight_decay", recovery.weight_decay, 0),
        ("recovery.gradient_clip", recovery.gradient_clip, 1e-6),
        ("recovery.validation_blocks", recovery.validation_blocks, 1),
        ("recovery.evaluate_every", recovery.evaluate_every, 1),
        ("recovery.lora_rank", recovery.lora_rank, 0),
        ("recovery.generated_blocks", recovery.generated_blocks, 1),
        ("recovery.generation_temperature", recovery.generation_temperature, 1e-2),
        ("benchmark.prompts", benchmark.prompts, 2),
        ("benchmark.new_tokens", benchmark.new_tokens, 2),
        ("benchmark.warmup_requests", benchmark.warmup_requests, 0),
        ("benchmark.max_rounds", benchmark.max_rounds, 1),
        ("benchmark.min_pairs", benchmark.min_pairs, 2),
        ("benchmark.target_ci_pct", benchmark.target_ci_pct, 0.1),
        ("benchmark.budget_s", benchmark.budget_s, 1),
        *(("benchmark.batch_sizes", size, 1) for size in benchmark.batch_sizes),
        *(("benchmark.prompt_tokens", length, 1) for length in benchmark.prompt_tokens),
        ("benchmark.batch_rounds", benchmark.batch_rounds, 2),
        ("benchmark.memory_rounds", benchmark.memory_rounds, 2),
        ("benchmark.threads", benchmark.threads or None, 1),
        ("benchmark.bootstrap_resamples", benchmark.bootstrap_resamples, 100),
        ("benchmark.timeout_s", benchmark.timeout_s, 1),
        ("search.n_trials", settings.search.n_trials, 1),
        ("search.minutes", settings.search.minutes, 0),
        ("search.parallel", settings.search.parallel or None, 1),
        ("search.max_failures", settings.search.max_failures, 1),
        ("quality.task_questions", settings.quality.task_questions, 1),
        ("quality.max_perplexity_ratio", settings.quality.max_perplexity_ratio, 1),
    ]
