"""What the measured models are asked to continue."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune_exp.machine.files import read_text
from prune_exp.measurement.comparison import SIDES
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings

Prompts = dict[str, list[list[int]]]
"""Each side's prompts as its own tokens; the i-th of both are the same text."""


def read_prompts(settings: BenchmarkSettings) -> list[str]:
    """The test prompts.

    Raises:
        SettingError: no such file, no UTF-8 text, or fewer prompts in it than asked for.
    """
    prompts = list_prompts(settings)
    if len(prompts) < settings.prompts:
        raise SettingError(
            f"benchmark.prompts={settings.prompts} but {_path_of(settings).name} has"
            f" {len(prompts)}; ask for fewer or give a longer benchmark.prompts_path"
        )
    return prompts[: settings.prompts]


def list_prompts(settings: BenchmarkSettings) -> list[str]:
    """All prompts that there are, however many are asked for.

    Raises:
        SettingError: no such file, or no UTF-8 text.
    """
    path = _path_of(settings)
    if not path.is_file():
        raise SettingError(f"benchmark.prompts_path={path} is not a file; give one prompt a line")
    text = read_text(path, setting="benchmark.prompts_path")
    prompts = [line.strip() for line in text.splitlines()]
    return [prompt for prompt in prompts if prompt]


def _path_of(settings: BenchmarkSettings) -> Path:
    return Path(settings.prompts_path or Path(__file__).with_name("prompts.txt")).expanduser()


def tokenize_prompt(text: str, tokenizer: Any, *, as_chat: bool = False) -> list[int]:
    """A prompt as a tokenizer has it, or as a user's message that is to be answered.

    Raises:
        SettingError: there is no chat template that says how a message is read.
    """
    if not as_chat:
        return tokenizer(text)["input_ids"]
    if not tokenizer.chat_template:
        raise SettingError(
            "benchmark.chat=true needs a chat template, and the tokenizer has none; use"
            " benchmark.chat=false"
        )
    message = {"role": "user", "content": text}
    asked = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    return tokenizer(asked, add_special_tokens=False)["input_ids"]


def tokenize_prompts(
    texts: list[str], tokenizers: Mapping[str, Any], *, as_chat: bool = False
) -> Prompts:
    """Each side's prompts as its own tokenizer has them."""
    return {
        side: [tokenize_prompt(text, tokenizer, as_chat=as_chat) for text in texts]
        for side, tokenizer in tokenizers.items()
    }


def batch_of(prompts: list[list[int]], size: int, tokens: int | None) -> list[list[int]]:
    """So many prompts of one length, so that no padding is measured.

    Without a length they are cut to the shortest; to a given one, each is filled up with the
    prompts after it.
    """
    if tokens is None:
        length = min(len(prompt) for prompt in prompts)
        return [prompts[i % len(prompts)][:length] for i in range(size)]
    return [_fill_up(prompts, i % len(prompts), tokens) for i in range(size)]


def _fill_up(prompts: list[list[int]], first: int, tokens: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < tokens:
        ids += prompts[first % len(prompts)]
        first += 1
    return ids[:tokens]


def batch_shapes_of(
    prompts: Prompts, settings: BenchmarkSettings
) -> dict[str, dict[str, tuple[int, int]]]:
    """Each side's batches, and its warm-up request, as (sequences, prompt tokens) by label."""

    def one(own: list[list[int]]) -> dict[str, tuple[int, int]]:
        shapes = {"warm-up": (1, len(own[0]))} if settings.warmup_requests else {}
        for label, shape in settings.batches.items():
            ids = batch_of(own, *shape)
            shapes[label] = len(ids), len(ids[0])
        return shapes

    return {side: one(prompts[side]) for side in SIDES}
