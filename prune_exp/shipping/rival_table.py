"""Files of several models at equal size: who is better, who is faster, what may be said of it."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from prune_exp.measurement.intervals import (
    middle_ratio,
    multiply,
    ratio_over_documents,
    token_ratio,
)
from prune_exp.measurement.records import Interval
from prune_exp.reporting.plots.style import (
    DENSE,
    INK,
    PRUNED,
    new_figure,
    remove_spines,
    save_figure,
)
from prune_exp.text.corpus import TokenBlocks

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One model as one kind of file, as it was measured."""

    model: str
    kind: str
    is_dense: bool
    size_mib: float
    peak_memory_mib: float
    tokens_per_s: list[float]
    """By round; the i-th of all files were measured after each other."""
    losses: torch.Tensor
    """Summed loss of each document of the text, in nats [documents]."""
    own_tokens: torch.Tensor
    """How many tokens of the model's own that are [documents]."""

    @property
    def name(self) -> str:
        """Of the model and the file."""
        return f"{self.model} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """All of them, and the text that judged."""

    text: TokenBlocks
    rivals: list[Rival]
    runtime: str
    was_quantized: bool = False
    """Whether the dense model's weights come from a quantized file."""

    @property
    def reference(self) -> Rival:
        """What all are compared with: the dense model's first file."""
        return next(one for one in self.rivals if one.is_dense)

    @property
    def kept(self) -> list[int]:
        """Documents of the texts on which quality is to be kept."""
        return self.text.documents_in(self.text.kept_rows)

    def bits_per_byte(self, one: Rival) -> float:
        """On the texts that are to be kept."""
        scored = sum(domain.bytes_scored for domain, _ in self.text.spans() if domain.kept)
        return float(one.losses[self.kept].sum()) / math.log(2) / scored

    def bits_by_domain(self, one: Rival) -> dict[str, float]:
        """On every kind of text."""
        return {
            domain.name: float(one.losses[self.text.documents_in(rows)].sum())
            / math.log(2)
            / domain.bytes_scored
            for domain, rows in self.text.spans()
        }

    def perplexity_ratio(self, one: Rival, other: Rival) -> Interval:
        """One's perplexity over the other's, per token of the dense model, document by document."""
        gaps = (one.losses - other.losses)[self.kept]
        tokens = self.text.count_predicted()[self.kept]
        return ratio_over_documents(gaps.tolist(), tokens.tolist()).ratio

    def speedup(self, one: Rival, other: Rival) -> Interval:
        """How much faster one writes the same text than the other, round by round."""
        rates = middle_ratio(one.tokens_per_s, other.tokens_per_s, resamples=RESAMPLES)
        theirs, ours = (side.own_tokens[self.kept].tolist() for side in (other, one))
        return multiply(rates, token_ratio(theirs, ours))


def list_verdicts(found: Rivals) -> list[str]:
    """A sentence on every pruned file beside the dense ones that are no larger."""
    return [_judge(found, one) for one in found.rivals if not one.is_dense]


def _judge(found: Rivals, one: Rival) -> str:
    every = [other for other in found.rivals if other.is_dense]
    dense = [other for other in every if other.size_mib <= one.size_mib]
    said = f"{one.name} ({one.size_mib:.0f} MiB)"
    if not dense:
        least = min(every, key=lambda other: other.size_mib)
        return (
            f"{said} is smaller than every dense file. Beside {least.name}"
            f" ({least.size_mib:.0f} MiB), the smallest of them: {_compare(found, one, least)}."
        )
    if all(_wins(found, one, other) for other in dense):
        return f"{said} is better and faster than every dense file that is no larger."
    best = min(dense, key=found.bits_per_byte)
    return (
        f"{said} beside {best.name} ({best.size_mib:.0f} MiB), the best dense file that is no"
        f" larger: {_compare(found, one, best)}."
    )


def _compare(found: Rivals, one: Rival, other: Rival) -> str:
    quality = _word(
        found.perplexity_ratio(one, other), ("better", "worse"), "as good as can be told"
    )
    speed = _word(found.speedup(one, other), ("slower", "faster"), "as fast as can be told")
    return f"{quality}, {speed}"


def _wins(found: Rivals, one: Rival, other: Rival) -> bool:
    better = found.perplexity_ratio(one, other).high < 1
    return better and found.speedup(one, other).low > 1


def _word(ratio: Interval, words: tuple[str, str], neither: str) -> str:
    """What an interval shows, below or above 1."""
    shown = f"{ratio.value:.3f} times [{ratio.low:.3f}, {ratio.high:.3f}]"
    if ratio.high < 1:
        return f"{words[0]} ({shown})"
    if ratio.low > 1:
        return f"{words[1]} ({shown})"
    return f"{neither} ({shown})"


def write_rivals(found: Rivals, sizes_mib: Sequence[float], folder: Path) -> None:
    """The table as Markdown and JSON, and the plot."""
    (folder / "rivals.md").write_text(_compose_page(found, sizes_mib), encoding="utf-8")
    rows = [_row_of(found, one) for one in found.rivals]
    kept = {
        "reference": found.reference.name,
        "runtime": found.runtime,
        "rivals": rows,
        "verdicts": list_verdicts(found),
        "notes": list_notes(found),
    }
    (folder / "rivals.json").write_text(
        json.dumps(kept, indent=1, allow_nan=False), encoding="utf-8"
    )
    _draw(found, folder / "rivals.png")


def _row_of(found: Rivals, one: Rival) -> dict[str, Any]:
    ratio = found.perplexity_ratio(one, found.reference)
    speedup = found.speedup(one, found.reference)
    return {
        "model": one.model,
        "kind": one.kind,
        "size_mib": one.size_mib,
        "bits_per_byte": found.bits_per_byte(one),
        "bits_per_byte_by_domain": found.bits_by_domain(one),
        **ratio.metrics("perplexity_ratio"),
        **speedup.metrics("text_speedup"),
        "tokens_per_s": median(one.tokens_per_s),
        "peak_memory_mib": one.peak_memory_mib,
    }


def _compose_page(found: Rivals, sizes_mib: Sequence[float]) -> str:
    domains = [domain.name for domain, _ in found.text.spans()]
    head = ["File", "MiB", *(f"{name}, bits per byte" for name in domains)]
    head += ["Perplexity ratio", "Speed for equal text", "Tokens/s", "Peak MiB"]
    rows = []
    for one in sorted(found.rivals, key=lambda rival: rival.size_mib):
        ratio = found.perplexity_ratio(one, found.reference)
        speedup = found.speedup(one, found.reference)
        rows.append(
            [
                one.name,
                f"{one.size_mib:.1f}",
                *(f"{value:.3f}" for value in found.bits_by_domain(one).values()),
                f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
                f"{speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]",
                f"{median(one.tokens_per_s):.1f}",
                f"{one.peak_memory_mib:.0f}",
            ]
        )
    table = [head, ["---"] * len(head), *rows]
    lines = ["# Pruned and quantized at equal size", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    lines += ["", *(f"- {sentence}" for sentence in list_verdicts(found)), ""]
    lines += [f"- {sentence}" for sentence in _name_best(found, sizes_mib)]
    lines += [
        "",
        f"{' '.join(list_notes(found))} Speed and memory: {found.runtime}.",
        "",
        "![Bits per byte against size and speed](rivals.png)",
        "",
    ]
    return "\n".join(lines)


def list_notes(found: Rivals) -> list[str]:
    """What the figures are relative to, and how far they reach."""
    notes = [
        f"Ratios are to {found.reference.name}, on the texts that are to be kept, with 95 %"
        " intervals over documents and rounds.",
        "The documents are those that the trials were judged on, so a model that was chosen by them"
        " among many looks a little better than it is.",
        "Quality is that of a file's weights, computed in float32.",
    ]
    if found.was_quantized:
        notes.append(
            "The dense model itself was read from a file whose matrices were quantized already:"
            " quantizing it again costs it less than a model that never was, and less than the"
            " pruned ones, whose weights were solved anew."
        )
    return notes


def _name_best(found: Rivals, sizes_mib: Sequence[float]) -> list[str]:
    """The best and the fastest file up to each size."""
    said = []
    for size in sizes_mib:
        fits = [one for one in found.rivals if one.size_mib <= size]
        if not fits:
            said.append(f"Up to {size:g} MiB there is no file.")
            continue
        best = min(fits, key=found.bits_per_byte)
        fastest = max(fits, key=lambda one: found.speedup(one, found.reference).value)
        said.append(f"Up to {size:g} MiB the best is {best.name}, the fastest {fastest.name}.")
    return said


def _draw(found: Rivals, path: Path) -> None:
    figure = new_figure((11.0, 4.8), "Pruned and quantized at equal size")
    left, right = figure.subplots(1, 2)
    left.set_xlabel("size of the file, MiB")
    right.set_xlabel("speed for equal text, x")
    sizes = [one.size_mib for one in found.rivals]
    speeds = [found.speedup(one, found.reference).value for one in found.rivals]
    for axis, values in ((left, sizes), (right, speeds)):
        axis.set_ylabel("bits per byte, texts to be kept (less is better)")
        axis.margins(0.15)
        remove_spines(axis)
        for model, marker in _choose_markers(found).items():
            of_model = [n for n, one in enumerate(found.rivals) if one.model == model]
            is_dense = found.rivals[of_model[0]].is_dense
            axis.scatter(
                [values[place] for place in of_model],
                [found.bits_per_byte(found.rivals[place]) for place in of_model],
                marker=marker,
                s=46,
                color=DENSE if is_dense else PRUNED,
                label="dense model" if is_dense else model,
            )
        in_order = sorted(
            zip(values, found.rivals, strict=True), key=lambda pair: (pair[1].model, pair[0])
        )
        below: dict[str, bool] = {}  # and above in turns, so that a model's neighbours can be read
        for value, one in in_order:
            below[one.model] = not below.get(one.model, True)
            axis.annotate(
                one.kind,
                (value, found.bits_per_byte(one)),
                (6, -14 if below[one.model] else 6),
                textcoords="offset points",
                fontsize=9,
                color=INK,
            )
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path)


def _choose_markers(found: Rivals) -> dict[str, str]:
    """A marker for each model, the dense one's a square; the same again beyond six pruned ones."""
    dense = {one.model: "s" for one in found.rivals if one.is_dense}
    pruned = dict.fromkeys(one.model for one in found.rivals if not one.is_dense)
    return dense | dict(zip(pruned, itertools.cycle("o^Dv<>"), strict=False))
