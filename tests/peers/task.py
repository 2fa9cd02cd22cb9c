"""What every method is given and gives back, and how large its model is to be."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune_exp.machine.device import choose_device
from prune_exp.model import loading
from prune_exp.model.shape import ModelShape
from prune_exp.pruning.calibration import Calibration, ReadingSettings, calibrate_model
from prune_exp.pruning.inputs import Inputs
from prune_exp.settings.schema import Settings


@dataclass(frozen=True, kw_only=True)
class Task:
    """A dense model to be pruned, and the text that may guide it."""

    settings: Settings
    inputs: Inputs
    load_s: list[float] = field(default_factory=list)
    """Seconds of every load of the dense model so far, which no method's time should hold."""

    def model(self) -> Any:
        """A dense model of one's own, to be used up, on the processor."""
        return self._load("cpu")

    def _load(self, device: str) -> Any:
        start = time.perf_counter()
        model = loading.load_model(self.inputs.source.folder, device=device)
        self.load_s.append(time.perf_counter() - start)
        return model

    def calibration(self, cache_dir: Path | None = None) -> Calibration:
        """Our statistics of the dense model on the calibration text."""
        return calibrate_model(
            self._load(choose_device(self.settings.device)),
            self.inputs.source.digest,
            self.inputs.corpus,
            self.inputs.tokenizer,
            ReadingSettings(
                voting_blocks=self.settings.data.calibration_blocks,
                gradient_blocks=self.settings.data.gradient_blocks,
            ),
            cache_dir=cache_dir or self.inputs.cache_dir,
        )

    @property
    def shape(self) -> ModelShape:
        """The dense model's sizes."""
        return self.inputs.shape

    @property
    def ids(self) -> Any:
        """Calibration token ids [blocks, tokens]."""
        return self.inputs.corpus.calibration.ids

    @property
    def width(self) -> int:
        """The MLP width in all layers that comes closest to the request, MLP channels alone going.

        Raises:
            ValueError: all channels together are too few.
        """
        shape = self.shape
        wanted = self.settings.sparsity * shape.params_total
        width = shape.width - round(wanted / (shape.layers * shape.params_channel))
        if width < 1:
            raise ValueError("the MLPs hold fewer parameters than that")
        return width

    @property
    def layers(self) -> int:
        """The number of whole layers to remove that comes closest to the request."""
        shape = self.shape
        wanted = round(self.settings.sparsity * shape.params_total / shape.params_layer)
        return min(max(wanted, 1), shape.layers - 1)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to prune that is compared with ours."""

    prune: Callable[[Task], Any]
    """Gives a pruned model with the dense model's tokenizer."""
    statistics: bool = False
    """Whether it uses our calibration statistics, whose time then counts."""
    package: str | None = None
    """Distribution that it needs and that may not be there."""
    stock: bool = True
    """Whether the model has one shape in all layers, so that a checkpoint of it loads anywhere."""
    note: str = ""
