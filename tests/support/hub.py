"""A stand-in for the Hugging Face hub on this machine: what is pushed, it remembers."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_thisIsNobodysSecret"


class Hub:
    """What a stand-in was sent."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.refuses = False
        self.role = "write"
        self.is_private: bool | None = None
        """Of the repository; None where there is none yet."""
        self.blobs: dict[str, bytes] = {}
        self.address = ""


@contextmanager
def stand_in_hub() -> Iterator[Hub]:
    """Serves one on 127.0.0.1 until the end."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hub_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in that huggingface_hub takes for the hub, and logs in to."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stand_in_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        yield served


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._note_token()
        if self.served.refuses:
            self._answer({"error": f"no such {self.headers.get('authorization')}"}, 401)
        elif self.path.startswith("/api/models/"):
            self._answer_about_repository()
        else:
            auth = {"accessToken": {"role": self.served.role}}
            self._answer({"name": "someone", "type": "user", "siblings": [], "auth": auth})

    def _answer_about_repository(self) -> None:
        private = self.served.is_private
        if private is None:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer({"id": "someone/tiny", "private": private, "siblings": []})

    def do_PUT(self) -> None:
        body = self._body()
        self.served.blobs[self.path.rpartition("/")[2]] = body
        self._answer({})

    def do_POST(self) -> None:
        self._note_token()
        body = self._body()
        if self.path.endswith("/repos/create"):
            self.served.created.append(json.loads(body))
            self._answer({"url": f"{self.served.address}/someone/tiny", "id": "someone/tiny"})
        elif "/preupload/" in self.path:
            modes = [
                {"path": one["path"], "uploadMode": _mode_of(one["path"]), "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._answer({"files": modes})
        elif self.path.endswith("/objects/batch"):
            self._answer({"transfer": "basic", "objects": self._places(json.loads(body))})
        elif "/commit/" in self.path:
            self._commit(body)
        else:
            self._answer({"errors": [], "warnings": []})

    def _places(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            one | {"actions": {"upload": {"href": f"{self.served.address}/blob/{one['oid']}"}}}
            for one in asked["objects"]
        ]

    def _commit(self, body: bytes) -> None:
        for line in body.decode().splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                value = one["value"]
                self.served.files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                value = one["value"]
                self.served.files[value["path"]] = self.served.blobs[value["oid"]]
        commit = {"commitUrl": f"{self.served.address}/someone/tiny/commit/1", "commitOid": "1"}
        self._answer(commit | {"success": True, "hookOutput": ""})

    def _note_token(self) -> None:
        """Of the hub's own client; others may still look for what had this port before."""
        if "hf_hub" in self.headers.get("user-agent", ""):
            self.served.tokens.add(self.headers.get("authorization", ""))

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self._chunk, b""))
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().strip(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def _answer(
        self, answer: dict[str, Any], code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(answer).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _mode_of(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".gguf", ".bin", ".data")) else "regular"
