"""Sentences that follow from measured figures, the unflattering ones included."""

import math
from collections.abc import Callable, Sequence

from prune_exp.measurement.records import Interval
from prune_exp.pruning.plan import UNIT_NAMES
from prune_exp.tracking.domains import (
    MAINTAINED,
    NOT_MAINTAINED,
    explain_doubt,
    join_words,
    judge_quality,
    list_kept,
    list_losses,
    read_domains,
)
from prune_exp.tracking.figures import fits_cache_alone, read_tasks
from prune_exp.tracking.read import spells_otherwise

Metrics = dict[str, float]
Rule = Callable[[Metrics], str | None]
BUSY_LOAD_PER_CORE = 1.2
BUSY_PCT = 25.0
CACHE_SHARE = 0.1
"""From this part of what a token reads on, the cache is part of what reading memory comes to."""


def _show_interval(m: Metrics, key: str, form: str) -> str:
    found = Interval.read(m, key)
    if key == "perplexity_ratio" and found.tells_nothing:
        return "how far off that is cannot be known"
    return f"95 % interval {found.low:{form}} to {found.high:{form}}"


def show_percent(share: float) -> str:
    """A share as per cent, so that a small one is not nothing."""
    return f"{100 * share:.0f}" if share >= 0.1 or not share else f"{100 * share:.2g}"


def tell_speed(m: Metrics) -> str | None:
    """Faster or slower only when the interval of the ratio excludes 1."""
    if "speedup" not in m:
        return "Speed was not measured, so nothing is claimed about it."
    where = _show_interval(m, "speedup", ".2f")
    if Interval.read(m, "speedup").low > 1:
        return f"One request is faster: {m['speedup']:.2f}x the dense model's speed ({where})."
    if Interval.read(m, "speedup").high < 1:
        return f"One request is slower: {m['speedup']:.2f}x the dense model's speed ({where})."
    return f"No difference in speed was shown: ratio {m['speedup']:.2f} ({where} includes 1)."


def tell_text_speed(m: Metrics) -> str | None:
    """What a smaller vocabulary costs: more tokens for the same text."""
    if not spells_otherwise(m):
        if "text_speedup" in m or "speedup" not in m or not m.get("removed_pct/vocab"):
            return None
        return (
            "Its vocabulary is smaller, so that the same text takes more tokens; the ratio of"
            " speeds for equal text was not measured."
        )
    fewer = 100 * (1 - m["pruned/bytes_per_token"] / m["dense/bytes_per_token"])
    return (
        f"Its tokens carry {fewer:.1f} % fewer bytes of text, so that for equal text the ratio of"
        f" speeds is {m['text_speedup']:.2f} ({_show_interval(m, 'text_speedup', '.2f')})."
    )


def tell_memory(m: Metrics) -> str | None:
    """Less or more memory only when the interval excludes 0."""
    if "memory_reduction_pct" not in m:
        return "Memory was not measured."
    where = _show_interval(m, "memory_reduction_pct", ".1f")
    value = m["memory_reduction_pct"]
    if Interval.read(m, "memory_reduction_pct").low > 0:
        return f"Peak memory is {value:.1f} % lower ({where})."
    if Interval.read(m, "memory_reduction_pct").high < 0:
        return f"Peak memory is {-value:.1f} % higher than the dense model's."
    return f"No difference in peak memory was shown ({where} includes 0)."


def tell_quality(m: Metrics) -> str | None:
    """Maintained only when the whole interval is within the limit, on every text to be kept.

    Other kinds of text on which the model lost more than that are named at once.
    """
    if "perplexity_ratio" not in m:
        return "Quality was not measured, so nothing is claimed about it."
    kept = list_kept(m)
    on = f" on {join_words(kept)}" if kept else ""
    sentence = f"Quality{on} is {judge_quality(m)}: {_tell_perplexity(m)}."
    return " ".join(filter(None, [sentence, explain_doubt(m), _tell_losses(m)]))


def _tell_perplexity(m: Metrics) -> str:
    if math.isnan(m["perplexity_ratio"]):
        return "the pruned model's held-out perplexity is no number"
    where = _show_interval(m, "perplexity_ratio", ".2f")
    ratio = f"held-out perplexity is {m['perplexity_ratio']:.2f}x the dense model's ({where})"
    if m.get("quality_maintained") or "max_perplexity_ratio" not in m:
        return ratio
    return f"{ratio}, and the limit is {m['max_perplexity_ratio']:g}x"


def _tell_losses(m: Metrics) -> str | None:
    domains = read_domains(m)
    return list_losses(domains, m["max_perplexity_ratio"]) if domains else None


def tell_agreement(m: Metrics) -> str | None:
    """How often both models would say the same next token."""
    if "top1_agreement" not in m:
        return None
    return (
        f"Both models rank the same next token first at {100 * m['top1_agreement']:.1f} % of"
        " held-out positions."
    )


def tell_share_of_limit(m: Metrics) -> str | None:
    """How much of what memory bandwidth allows was reached."""
    if "share_of_limit" not in m:
        return None
    allowed = f"{m['bandwidth_limit_speedup']:.2f}x where memory bandwidth is the limit"
    share = f"{show_percent(m['share_of_limit'])} % of that was reached"
    if m["share_of_limit"] <= 1:
        return f"Reading fewer weights allows at most {allowed}; {share}."
    why = "" if _cache_matters(m) else ", so other work became less too"
    return f"Reading fewer weights alone would allow {allowed}; {share}{why}."


def _cache_matters(m: Metrics) -> bool:
    """Whether a notable part of what the pruned model reads for a token may come from a cache."""
    cache = m.get("machine/last_level_cache_mib", 0.0)
    return cache >= CACHE_SHARE * m.get("pruned/mib_read_per_token", math.inf)


def tell_cache(m: Metrics) -> str | None:
    """A warning where a large cache is part of what was gained."""
    if not fits_cache_alone(m):
        return None
    dense, pruned = (m[f"{side}/mib_read_per_token"] for side in ("dense", "pruned"))
    return (
        f"What the pruned model reads for a token, {pruned:.0f} MiB, fits in this processor's cache"
        f" of {m['machine/last_level_cache_mib']:.0f} MiB, and the dense model's {dense:.0f} MiB do"
        " not: on a machine with a smaller cache less is gained."
    )


def tell_where_memory_goes(m: Metrics) -> str | None:
    """The saving split into weights, keys and values, and the rest."""
    if "saved/peak_memory_mib" not in m:
        return None
    parts = (("weights", "weights"), ("kv_cache", "keys and values"), ("buffers", "buffers"))
    split = ", ".join(f"{name} {m[f'saved/{part}_mib']:+.1f}" for part, name in parts)
    return f"Of the peak, {m['saved/peak_memory_mib']:+.1f} MiB were saved: {split}."


def tell_bandwidth(m: Metrics) -> str | None:
    """How near decoding comes to the machine's own limit."""
    if "dense/share_of_bandwidth" not in m:
        return None
    shares = [m[f"{side}/share_of_bandwidth"] for side in ("dense", "pruned")]
    dense, pruned = map(show_percent, shares)
    sentence = (
        f"Decoding reads memory at {dense} % (dense) and {pruned} % (pruned) of the"
        f" {m['machine/read_bandwidth_gb_per_s']:.1f} GB/s that this machine was measured to read."
    )
    if max(shares) > 1:
        sentence += (
            " More than 100 % is possible where a part of the weights stays in the cache."
            if _cache_matters(m)
            else " More than 100 % means that the bandwidth was measured too low."
        )
    return sentence


def tell_load_at_start(m: Metrics) -> str | None:
    """A warning when something else was using the machine as the measurement began.

    Pruning on all cores just before adds up to one per core to the load average, so only more than
    that speaks of others; the use of the cores while the trial idles speaks of them directly.
    """
    load = m.get("machine/load_per_core_start", 0.0)
    use = m.get("machine/busy_pct_start", 0.0)
    if load <= BUSY_LOAD_PER_CORE and use <= BUSY_PCT:
        return None
    return (
        f"Warning: the machine was busy when the measurement began (load average {load:.2f} per"
        f" core, {use:.0f} % of the cores in use by others); times are longer and intervals wider"
        " than on a quiet one."
    )


def tell_sparsity(m: Metrics) -> str | None:
    """Whether the request was met."""
    asked = 100 * m["sparsity_requested"]
    got = m["params_pruned_pct"]
    if m.get("weights_zeroed_pct"):
        return (
            f"{m['weights_zeroed_pct']:.1f} % of all parameters were set to zero ({asked:.1f} %"
            " requested) and none is gone: zeros are stored and multiplied like other numbers."
        )
    if abs(asked - got) <= 0.5:
        return f"{got:.1f} % of all parameters are gone, as requested ({asked:.1f} %)."
    return f"{got:.1f} % of all parameters are gone; {asked:.1f} % were requested."


def tell_where_parameters_went(m: Metrics) -> str | None:
    """The budget split by kind of unit."""
    gone = {name: m.get(f"removed_pct/{kind}", 0.0) for kind, name in UNIT_NAMES.items()}
    shown = ", ".join(f"{name} {share:.1f}" for name, share in gone.items() if share)
    return f"Percent of all parameters that went, by kind: {shown}." if shown else None


def tell_recovery(m: Metrics) -> str | None:
    """What training after pruning took part in the quality."""
    if "recovery/steps" not in m:
        return None
    done = (
        f"after pruning, the model was trained towards the dense one on"
        f" {m['recovery/tokens']:,.0f} tokens for {m['recovery/seconds'] / 60:.1f} minutes"
    )
    if not m["recovery/best_step"]:
        return f"{done[0].upper()}{done[1:]}, which did not help: its weights are as pruned."
    return (
        f"Quality is not that of pruning alone: {done}; the divergence from it on validation text"
        f" fell from {m['recovery/validation_kl_before']:.3f} to"
        f" {m['recovery/validation_kl_after']:.3f} nats a token."
    )


def tell_tasks(m: Metrics) -> str | None:
    """What became of right answers; a change only where the interval excludes none."""
    said = []
    for one in read_tasks(m):
        change = one.change_points
        where = f"95 % interval {change.low:+.1f} to {change.high:+.1f}"
        shown = change.low > 0 or change.high < 0
        said.append(
            f"On {one.name} it answers {one.pruned_accuracy_pct:.1f} % of {one.questions} questions"
            f" right, the dense model {one.dense_accuracy_pct:.1f} %"
            + (
                f": {change.value:+.1f} points ({where})."
                if shown
                else f"; no difference was shown ({where} points)."
            )
        )
    return " ".join(said) or None


def tell_behaviour(m: Metrics) -> str | None:
    """Whether its answers go round in circles, where either model's do."""
    if "pruned/repeated_runs_pct" not in m:
        return None
    dense, pruned = (
        (m[f"{side}/repeated_runs_pct"], m[f"{side}/degenerate_answers_pct"])
        for side in ("dense", "pruned")
    )
    if not any((*dense, *pruned)):
        return None
    return (
        f"Of all runs of four tokens in its answers, {pruned[0]:.0f} % had come before"
        f" in the same answer (dense: {dense[0]:.0f} %); {pruned[1]:.0f} % of these answers mostly"
        f" repeat themselves (dense: {dense[1]:.0f} %)."
    )


SUMMARY = (
    tell_sparsity,
    tell_speed,
    tell_text_speed,
    tell_memory,
    tell_quality,
    tell_recovery,
    tell_load_at_start,
)
RULES: tuple[Rule, ...] = (
    *SUMMARY,
    tell_agreement,
    tell_tasks,
    tell_behaviour,
    tell_share_of_limit,
    tell_cache,
    tell_bandwidth,
    tell_where_memory_goes,
    tell_where_parameters_went,
)


def list_insights(m: Metrics, rules: Sequence[Rule] = RULES) -> list[str]:
    """Every sentence that the figures support."""
    return [sentence for rule in rules if (sentence := rule(m)) is not None]


def conclude(m: Metrics) -> str:
    """What may be claimed, and what may not."""
    warned = "" if tell_load_at_start(m) is None else " The machine was busy when it was measured."
    return f"{_conclude_on_speed(m)}{warned} {_conclude_on_quality(m)}"


def _conclude_on_speed(m: Metrics) -> str:
    smaller = "not smaller, its zeros are stored" if m.get("weights_zeroed_pct") else "smaller"
    if "speedup" not in m:
        return f"The model is {smaller}; whether it is faster was not measured."
    key, on = ("text_speedup", " for equal text") if spells_otherwise(m) else ("speedup", "")
    if Interval.read(m, key).low > 1:
        times = f"{m[key]:.2f}x{_doubt_on_tokens(m)}"
        return f"The pruned model is faster{on} ({times}) and {smaller}."
    if Interval.read(m, key).high < 1:
        return f"The pruned model is {smaller}, and slower{on} ({m[key]:.2f}x)."
    return f"The pruned model is {smaller}, but no speedup{on} was shown."


def _doubt_on_tokens(m: Metrics) -> str:
    """Where speed for equal text may be another one and was not measured."""
    unknown = m.get("removed_pct/vocab") and "text_speedup" not in m
    return " a request, for equal text it was not measured" if unknown else ""


def _conclude_on_quality(m: Metrics) -> str:
    if "perplexity_ratio" not in m:
        return "Its quality was not measured."
    verdict = judge_quality(m)
    kept = list_kept(m)
    on = f" of {join_words(kept)}" if kept else ""
    why = "" if verdict == MAINTAINED else f": {_tell_perplexity(m)}"
    advice = (
        "Do not use it in the dense model's place without training it further."
        if verdict == NOT_MAINTAINED
        else None
    )
    said = [f"Its quality on held-out text{on} is {verdict}{why}."]
    return " ".join(filter(None, [*said, explain_doubt(m), _tell_losses(m), advice]))
