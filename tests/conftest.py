"""Tiny models and texts, made on the spot."""

import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest_plugins = ["tracked_sweep"]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models, and often several at once

GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3")
"""Families whose heads can be removed."""
MODEL_TYPES = (*GROUPED, "gpt2", "opt", "gpt_neox")
EXTRA: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 8, "sliding_window_pattern": 2},
    "gpt2": {"n_inner": 48, "n_positions": 256},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
"""What families call by other names."""
WORDS = [
    "the",
    "a",
    "river",
    "stone",
    "bridge",
    "old",
    "new",
    "runs",
    "stands",
    "falls",
    "over",
    "under",
    "quickly",
    "slowly",
    "and",
    "but",
]


def make_tiny(model_type: str, *, tie: bool = True, seed: int = 0, vocab: int = 300) -> Any:
    """A randomly initialised decoder: 4 layers, 4 query heads on 2 key/value heads."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tie,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    if model_type in GROUPED:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(model_type, **sizes | EXTRA.get(model_type, {}))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def count_loads(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Path]:
    """Folders of the models that a module has loaded since, a growing list."""
    load, loads = module.load_model, []

    def counted(folder: Path, **how: Any) -> Any:
        loads.append(folder)
        return load(folder, **how)

    monkeypatch.setattr(module, "load_model", counted)
    return loads


def eager_serving(folder: Path, device: str = "cpu") -> Any:
    """What a measured process is told of a checkpoint when nothing is asked for."""
    from prune_exp.measurement.backends.protocol import ServeSpec

    return ServeSpec(
        folder=str(folder),
        backend="transformers",
        dtype="float32",
        cache="dynamic",
        compile=False,
        device=device,
        threads=1,
        sequences=3,
        cache_tokens=17,
    )


def make_tokenizer() -> Any:
    """A byte-level tokenizer: 256 byte tokens after one special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<end>": 0} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>", pad_token="<end>"
    )


def make_bpe_tokenizer(size: int = 300) -> Any:
    """A byte-level BPE tokenizer with real merges, learnt from made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    chance = random.Random(1)
    text = [" ".join(chance.choices(WORDS, k=20)) for _ in range(50)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>", pad_token="<end>"
    )


def make_fallback_tokenizer(kind: str = "gemma", size: int = 700) -> Any:
    """A BPE tokenizer of characters that falls back on bytes, as SentencePiece makes them.

    `kind` is how it marks spaces: as Gemma does, or as Llama 2 does, in the old or new way. Where
    two tokens join to a third there is a merge, so that most tokens are made in several ways.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    pieces = _pieces(size)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if not piece.startswith("<") and {piece[:cut], piece[cut:]} <= set(vocab)
    ]
    tokenizer = Tokenizer(
        kinds.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    mark, steps = normalizers.Replace(" ", "\u2581"), [decoders.Replace("\u2581", " ")]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        first = [normalizers.Prepend("\u2581")] if kind == "llama2" else []
        tokenizer.normalizer = normalizers.Sequence([*first, mark])
    tokenizer.decoder = decoders.Sequence(
        steps if kind == "gemma" else [*steps, decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in pieces[:4]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _pieces(size: int) -> list[str]:
    """Special tokens, bytes, characters, and parts of words by how often they are seen."""
    from collections import Counter

    chance, seen = random.Random(2), Counter()
    for word in chance.choices([*WORDS, "é", "你好"], k=500):
        marked = f"\u2581{word}"
        seen.update(marked[a:b] for a in range(len(marked)) for b in range(a + 2, len(marked) + 1))
    characters = sorted({*"".join(WORDS), *"\u2581\n<>0x.,é你好"})
    fixed = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    common = [piece for piece, _ in seen.most_common(size - len(fixed) - len(characters))]
    return [*fixed, *common, *characters]


def empty_plan(**changes: Any) -> Any:
    """A plan for a tiny decoder that removes nothing but what is given."""
    from prune_exp.pruning.allocation import NOTHING
    from prune_exp.pruning.plan import PruningPlan

    nothing: dict[str, Any] = {
        "sparsity_requested": 0.1,
        "vote_threshold": 0.5,
        "ballot": "adaptive",
        "allocation": NOTHING,
        "layers": (),
        "heads": dict.fromkeys(range(4), ()),
        "channels": dict.fromkeys(range(4), ()),
        "voters": {},
    }
    return PruningPlan(**nothing | changes)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama checkpoint on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 short documents."""
    chance = random.Random(0)
    parts = [" ".join(chance.choices(WORDS, k=30)) + "." for _ in range(200)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(parts), encoding="utf-8")
    return path


@pytest.fixture
def tiny_args(tiny_folder: Path, text_file: Path, tmp_path: Path) -> list[str]:
    """Command-line overrides for a trial that takes seconds."""
    return small_trial(tiny_folder, text_file, tmp_path / "cache")


def small_trial(model: Path, text: Path, cache: Path) -> list[str]:
    """Overrides for a trial of a tiny model on a short text."""
    return [
        "model=folder",
        f"model.path={model}",
        "model.name=tiny",
        "data=file",
        f"data.path={text}",
        "data.context_tokens=32",
        "data.calibration_blocks=6",
        "data.gradient_blocks=2",
        "data.heldout_blocks=6",
        "benchmark=quick",
        "benchmark.prompts=3",
        "benchmark.new_tokens=4",
        "benchmark.bootstrap_resamples=200",
        f"cache_dir={cache}",
    ]


def command(
    *args: str, cwd: Path, timeout: float = 300, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m prune_exp` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "prune_exp", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (env or {}),
        check=False,
    )


def runs_in(folder: Path, uri: str | None = None) -> list[Any]:
    """All runs of the store under a folder, the sweep's own first, then by trial number."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prune_exp")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return sorted(runs, key=lambda run: int(run.data.tags.get("hydra.job.num", -1)))
