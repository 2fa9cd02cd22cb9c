"""Ends a trial that surely cannot meet a constraint, before it costs more.

What follows from sizes is looked at before anything is cut: training cannot change it. Quality can
only be judged once training is done, so training is not saved by it, but the clocks are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.measurement.early_looks import SurelyBeyond
from prune_exp.measurement.records import QualityComparison
from prune_exp.model.export import choose_export_dtype
from prune_exp.model.sources import ModelSource
from prune_exp.pruning.allocation import NOTHING, allocate_budget, shape_after
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.plan import Allocation
from prune_exp.settings.schema import Settings
from prune_exp.tracking.metrics import quality_metrics, size_metrics
from prune_exp.tracking.result import StoppedTrial

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
"""Bytes of a weight, at least."""


@dataclass(kw_only=True)
class Stops:
    """The constraints of a trial, and what is known of it so far."""

    settings: Settings
    dense: Inputs
    limits: Mapping[str, float]
    known: dict[str, float] = field(default_factory=dict)

    def check_request(self) -> None:
        """Looks at what the request comes to, where no rehearsal decides on it.

        Raises:
            SurelyBeyond: a size is beyond its limit.
        """
        pruning = self.settings.pruning
        if pruning.method != "structured":
            self.check_plan(NOTHING)
        elif pruning.knows_shape:
            self.check_plan(allocate_budget(self.dense.shape, self.settings.sparsity, pruning))

    def check_plan(self, gone: Allocation) -> None:
        """Looks at the sizes of what is left.

        Raises:
            SurelyBeyond: one of them is beyond its limit.
        """
        if not self.limits:
            return
        left = shape_after(self.dense.shape, gone)
        self.known |= size_metrics(self.dense.shape, left)
        self._check(self.known)
        self._check(least_bytes(self.settings, self.dense.source, left.params_total))

    def check_quality(self, judged: QualityComparison) -> None:
        """Looks at quality as it was judged, where the clocks are still to come.

        Raises:
            SurelyBeyond: it is beyond a limit.
        """
        if self.limits and self.settings.benchmark.enabled:
            found = quality_metrics(judged)
            self.known |= found
            self._check(found)

    def tell(self, beyond: SurelyBeyond, watch: Stopwatch) -> StoppedTrial:
        """What is known of the trial that ends here."""
        return StoppedTrial(
            model_digest=self.dense.source.digest,
            metric=beyond.metric,
            at_least=beyond.at_least,
            blocks=beyond.blocks,
            known=self.known,
            seconds=watch.seconds,
            peak_mib=watch.peak_mib,
        )

    def _check(self, found: Mapping[str, float]) -> None:
        for metric, most in self.limits.items():
            if metric in found and found[metric] > most:
                raise SurelyBeyond(metric, found[metric])


def least_bytes(settings: Settings, source: ModelSource, params: int) -> dict[str, float]:
    """What files and memory cannot be less than, MiB: so many weights alone."""
    kind = choose_export_dtype(settings.model.export_dtype, source.folder)
    least = {"file_mib": params * BYTES[kind] / 2**20}
    benchmark = settings.benchmark
    if benchmark.enabled and benchmark.backend == "transformers":
        weights = params * BYTES[benchmark.runtime.dtype] / 2**20
        least |= {"pruned/weights_mib": weights, "pruned/peak_memory_mib": weights}
    return least
