"""`mlflow models serve` answers for a stored model: texts, a prompt, or a chat."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from transformers import AutoTokenizer

from support.cli import command
from support.servers import free_port

TEMPLATE = "{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}"
VERIFY = "prune_exp.verify"
MODEL = "models:/pruned-tiny@candidate"


@pytest.fixture
def chat_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with a chat template."""
    folder = tmp_path / "chat"
    shutil.copytree(tiny_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def serve(model: str, store: str) -> Iterator[str]:
    """MLflow's own server of a registered model; where requests go."""
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # uvicorn's
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "models", "serve", "-m", model),
            *("--port", str(port), "--env-manager", "local"),
        ],
        env=os.environ | {"MLFLOW_TRACKING_URI": store, "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:  # the test's own limit ends this
            assert server.poll() is None, "the server has ended"
            try:
                if requests.get(f"{address}/ping", timeout=2).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        yield f"{address}/invocations"
    finally:
        os.killpg(server.pid, 9)
        server.wait()


CHAT = {"messages": [{"role": "user", "content": "the river"}], "max_tokens": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("served_as", "request_body"),
    [
        ("text", {"inputs": ["the river"], "params": {"max_new_tokens": 4}}),
        ("completions", {"prompt": "the river", "max_tokens": 4}),
        ("chat", CHAT),
    ],
)
def test_a_stored_model_is_served(
    served_as: str,
    request_body: dict[str, Any],
    chat_folder: Path,
    tiny_args: list[str],
    tmp_path: Path,
) -> None:
    arguments = [*tiny_args, f"model.path={chat_folder}", f"tracking.serve_as={served_as}"]
    done = command(*arguments, "benchmark=off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command(
        "version=1", "tracking.registered_model=pruned-tiny", cwd=tmp_path, module=VERIFY
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with serve(MODEL, f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}") as address:
        answers = [requests.post(address, json=request_body, timeout=60) for _ in range(2)]
        refused = requests.post(address, json={"nonsense": 1}, timeout=60)
    assert [one.status_code for one in answers] == [200, 200], answers[0].text
    once, again = (read_answer(one.json(), served_as) for one in answers)
    assert once == again
    assert once
    assert refused.status_code == 400


def read_answer(answer: Any, served_as: str) -> str:
    if served_as == "text":
        return answer["predictions"][0]
    (found,) = answer if isinstance(answer, list) else [answer]
    (choice,) = found["choices"]
    assert found["usage"]["completion_tokens"] == 4
    return choice["message"]["content"] if served_as == "chat" else choice["text"]


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("tracking.serve_as=chat", "tracking.serve_as=completions"),
        ("benchmark.chat=true", "benchmark.chat=false"),
    ],
)
def test_a_chat_needs_a_template(
    given: str, instead: str, tiny_args: list[str], tmp_path: Path
) -> None:
    done = command(*tiny_args, given, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert instead in done.stderr
    assert not (tmp_path / "mlruns").exists()
