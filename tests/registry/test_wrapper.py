"""Nothing beside a stored checkpoint can run or be installed but what MLflow needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prune_exp.registry.wrapper import REQUIRED, foreign_wrapper, wrapper_sha256

LINES = ["mlflow==3.17.2", *(f"{name}==1.2.3" for name in REQUIRED)]
MLMODEL: dict[str, Any] = {
    "flavors": {
        "python_function": {
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.transformers",
            "python_version": "3.11.7",
        },
        "transformers": {"code": None, "components": ["tokenizer"], "model_binary": "model"},
    },
    "model_id": "m-1",
}
CONDA = {"dependencies": ["python=3.11.7", "pip<=23.2.1", {"pip": LINES}], "name": "mlflow-env"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A stored model as MLflow leaves it."""
    for name in ("model", "components/tokenizer"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "components" / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "MLmodel").write_text(yaml.safe_dump(MLMODEL))
    (tmp_path / "conda.yaml").write_text(yaml.safe_dump(CONDA))
    (tmp_path / "python_env.yaml").write_text("dependencies:\n- -r requirements.txt\n")
    (tmp_path / "requirements.txt").write_text("\n".join(LINES))
    for name in ("input_example.json", "model_card.md", "LICENSE.txt"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_a_model_of_ours_has_nothing_foreign(root: Path) -> None:
    assert foreign_wrapper(root) == []


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda m: m["flavors"]["python_function"].update(loader_module="evil"), "loader_module"),
        (lambda m: m["flavors"]["python_function"].pop("loader_module"), "loader_module"),
        (lambda m: m["flavors"]["python_function"].update(code="code"), "code"),
        (lambda m: m["flavors"]["transformers"].update(code="code"), "code"),
        (lambda m: m["flavors"]["python_function"].update(model_code_path="x.py"), "code_path"),
        (lambda m: m.update(model_code_path="x.py"), "model_code_path"),
        (lambda m: m["flavors"]["python_function"].update(data="/elsewhere"), "data"),
        (lambda m: m["flavors"]["python_function"].update(config={"a": "b.py"}), "config"),
        (lambda m: m["flavors"]["python_function"].update(config={"revision": 1}), "config"),
        (lambda m: m["flavors"]["python_function"].update(config="b.py"), "config"),
        (lambda m: m["flavors"]["transformers"].pop("model_binary"), "model_binary"),
        (lambda m: m["flavors"]["transformers"].update(model_binary="../other"), "model_binary"),
        (lambda m: m["flavors"].update(sklearn={"pickled_model": "x"}), "flavors"),
        (lambda m: m["flavors"].update(python_function=None), "loader_module"),
        (lambda m: m.update(flavors="evil"), "flavors"),
    ],
)
def test_mlmodel_loads_a_stock_checkpoint_and_nothing_else(
    change: Change, fault: str, root: Path
) -> None:
    facts = yaml.safe_load((root / "MLmodel").read_text())
    change(facts)
    (root / "MLmodel").write_text(yaml.safe_dump(facts))
    found = foreign_wrapper(root)
    assert any("MLmodel" in one and fault in one for one in found), found


@pytest.mark.parametrize(
    "text", ["", "- a list", "flavors: [", "\ud800".encode("utf-8", "replace")]
)
def test_an_mlmodel_that_is_none_is_foreign(text: Any, root: Path) -> None:
    (root / "MLmodel").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert foreign_wrapper(root) == ["MLmodel (flavors)"]


@pytest.mark.parametrize(
    "line",
    [
        "evil==1.0",
        "torch",
        "torch>=1",
        "torch @ https://host/evil.whl",
        "--index-url https://host",
        "-r other.txt",
        "git+https://host/evil",
        "torch==1.0 --hash=x",
    ],
)
@pytest.mark.parametrize("where", ["requirements.txt", "conda.yaml", "python_env.yaml"])
def test_only_pinned_packages_that_loading_needs_are_installed(
    where: str, line: str, root: Path
) -> None:
    if where == "requirements.txt":
        (root / where).write_text("\n".join([*LINES, line]))
    elif where == "conda.yaml":
        changed = {"dependencies": ["python=3.11.7", {"pip": [*LINES, line]}]}
        (root / where).write_text(yaml.safe_dump(changed))
    else:
        (root / where).write_text(yaml.safe_dump({"dependencies": [line]}))
    assert any(line in one for one in foreign_wrapper(root))


@pytest.mark.parametrize("name", ["code/evil.py", "evil.py", "python_model.pkl", "components/x.py"])
def test_a_file_that_no_model_of_ours_has_is_foreign(name: str, root: Path) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).touch()
    assert foreign_wrapper(root) == [name.partition("/")[0] if "code" in name else name]


def test_the_digest_is_about_all_that_lies_beside_the_checkpoint(root: Path) -> None:
    before = wrapper_sha256(root)
    (root / "model" / "model.safetensors").write_bytes(b"other")
    assert wrapper_sha256(root) == before
    (root / "components" / "tokenizer" / "tokenizer.json").write_text("[]")
    assert wrapper_sha256(root) != before
