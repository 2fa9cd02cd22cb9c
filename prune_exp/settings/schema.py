"""The settings of a trial, all groups together; only trial, search and the commands know them."""

from dataclasses import dataclass, field

from prune_exp.settings.groups import (
    BenchmarkSettings,
    DataSettings,
    GoalSettings,
    ModelSettings,
    PruningSettings,
    QualitySettings,
    RecoverySettings,
    SearchSettings,
    TrackingSettings,
)


@dataclass(kw_only=True)
class Settings:
    """One trial, whole."""

    sparsity: float = 0.5
    """Share of the model's parameters to remove, in (0, 1)."""
    vote_threshold: float = 0.5
    """Share of the voters that must agree, in (0, 1]."""
    seed: int = 0
    """Seeds the random voter, the choice of calibration text, and text that the model writes."""
    device: str = "cpu"
    """Where models are pruned, judged and measured: cpu, cuda, or auto, which is cuda where there
    is one."""
    cache_dir: str = "~/.cache/prune_exp"
    """Where converted models, calibration statistics and dense baselines are kept."""
    optimized_metric: str | None = None
    """Metric that a trial returns as a number to other sweepers than ours, which want one, such as
    Hydra's own for Optuna; its trials are never ended early. Ours has `search.objectives`."""
    plan: bool = False
    """Say what would be run, how long it may take and how much memory, and start nothing."""
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    goal: GoalSettings = field(default_factory=GoalSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


def store_schema() -> None:
    """Makes the typed schema known to Hydra under the name `schema`.

    Of all its settings only tags have names that the user chooses.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    node = OmegaConf.structured(Settings)
    OmegaConf.set_struct(node.tracking.tags, value=False)
    ConfigStore.instance().store(name="schema", node=node)
