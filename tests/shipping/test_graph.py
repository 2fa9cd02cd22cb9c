"""A checkpoint's graph says what the checkpoint says, and sees what it sees."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prune_exp.shipping.graph import (
    FAMILIES,
    ONNX_FILE,
    OPENVINO_FILE,
    masks_of,
    name_ports,
    write_onnx,
    write_openvino,
)
from support.models import make_tiny
from support.shipping import save_tiny

IDS = np.array([[0, 0, 5, 6, 7, 8, 9, 10, 11, 12, 13], [7, 8, 9, 10, 11, 5, 6, 7, 8, 100, 200]])
"""Two texts, the first of them padded on the left."""
SEEN = np.array([[0] * 2 + [1] * 9, [1] * 11])


def as_rows(mask: torch.Tensor) -> list[str]:
    return ["".join(map(str, row)) for row in mask[0, 0].int().tolist()]


def test_every_token_sees_itself_and_what_came_before_but_no_padding() -> None:
    config = SimpleNamespace(sliding_window=None)
    mask = masks_of(config, torch.tensor([[0, 1, 1, 1]]), 3, 1)
    assert as_rows(mask) == ["0100", "0110", "0111"]
    assert as_rows(masks_of(config, torch.tensor([[0, 1]]), 2, 0)) == ["10", "01"]


def test_a_window_ends_in_its_own_layers_alone() -> None:
    config = SimpleNamespace(sliding_window=2, layer_types=["sliding_attention", "full_attention"])
    masks = masks_of(config, torch.ones(1, 4), 4, 0)
    assert as_rows(masks["sliding_attention"]) == ["1000", "1100", "0110", "0011"]
    assert as_rows(masks["full_attention"]) == ["1000", "1100", "1110", "1111"]
    plain = SimpleNamespace(sliding_window=2)
    assert as_rows(masks_of(plain, torch.ones(1, 4), 4, 0)) == as_rows(masks["sliding_attention"])


def run_in_two(run: Any, cache: np.ndarray, layers: int, cut: int = 5) -> Any:
    """Logits of IDS, the second part over the keys and values that the first gave back."""
    names, _ = name_ports(layers)
    places = np.maximum(SEEN.cumsum(1) - 1, 0)
    past = [cache] * (2 * layers)
    first = [IDS[:, :cut], SEEN[:, :cut], places[:, :cut], *past]
    logits, *longer = run(dict(zip(names, first, strict=True)))
    rest = [IDS[:, cut:], SEEN, places[:, cut:], *longer]
    more, *_ = run(dict(zip(names, rest, strict=True)))
    return np.concatenate([logits, more], axis=1)


def check_logits(model: Any, found: Any) -> None:
    for row, start in ((0, 2), (1, 0)):
        wanted = model(torch.tensor(IDS[row : row + 1, start:])).logits[0].numpy()
        np.testing.assert_allclose(found[row, start:], wanted, atol=1e-4)


def sized(kind: str) -> dict[str, Any]:
    return {"sliding_window": 6} if kind == "mistral" else {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_onnx_says_the_same_logits(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    checkpoint = save_tiny(tmp_path / "model", kind, **sized(kind))
    folder = tmp_path / "onnx"
    write_onnx(checkpoint, folder)
    assert not [str(one.message) for one in recwarn]
    assert "not installed" not in capfd.readouterr().err
    session = runtime.InferenceSession(str(folder / ONNX_FILE))
    shape = session.get_inputs()[3].shape
    cache = np.zeros((2, shape[1], 0, shape[3]), np.float32)
    found = run_in_two(lambda values: session.run(None, values), cache, 4)
    check_logits(make_tiny(kind, vocab=300, **sized(kind)), found)
    beside = {path.name for path in folder.iterdir()}
    assert {"tokenizer.json", "config.json", "generation_config.json"} <= beside
    assert not [name for name in beside if name.endswith(".safetensors")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_openvino_says_the_same_logits(kind: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    checkpoint = save_tiny(tmp_path / "model", kind, **sized(kind))
    folder = tmp_path / "openvino"
    write_openvino(checkpoint, folder)
    compiled = openvino.Core().compile_model(
        str(folder / OPENVINO_FILE), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    shape = compiled.inputs[3].partial_shape
    cache = np.zeros((2, shape[1].get_length(), 0, shape[3].get_length()), np.float32)

    def run(values: Any) -> list[Any]:
        return [one.copy() for one in compiled(values).to_tuple()]

    check_logits(make_tiny(kind, vocab=300, **sized(kind)), run_in_two(run, cache, 4))
