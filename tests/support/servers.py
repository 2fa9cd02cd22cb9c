"""Servers of our own on free ports: PostgreSQL, MLflow."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_initdb() -> str | None:
    """PostgreSQL's own program for a new server, on the PATH or where Debian has it."""
    return shutil.which("initdb") or next(
        iter(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))), None
    )


@contextmanager
def serve_postgresql(initdb: str) -> Iterator[str]:
    """A server of our own on a free port, with databases for runs and studies; its URL."""
    programs = Path(initdb).resolve().parent
    folder = Path("/tmp") / f"prune_exp-pg-{os.getpid()}"
    folder.mkdir()
    port, as_user = free_port(), []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    try:
        subprocess.run(
            [*as_user, programs / "initdb", "-D", data, "-U", "me", "-A", "trust"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        server = subprocess.Popen(
            [*as_user, programs / "postgres", "-D", data, "-p", str(port), "-k", folder],
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            for name in ("runs", "studies"):
                _create_database(name, [*as_user, programs / "createdb"], port)
            yield f"postgresql://me@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)  # its fast shutdown: clients are cut off
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create_database(name: str, program: list[Any], port: int) -> None:
    """Once the server answers."""
    how = ["-h", "127.0.0.1", "-p", str(port), "-U", "me", name]
    for _ in range(50):
        if subprocess.run([*program, *how], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    raise AssertionError("PostgreSQL did not start")


class MlflowServer:
    """An MLflow server on a store, which can be stopped and started again at the same address."""

    def __init__(self, store: str, artifacts: Path) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", store, "--artifacts-destination", str(artifacts)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        import requests

        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(
            self._command, stdout=silent, stderr=silent, start_new_session=True
        )
        for _ in range(240):
            try:
                if requests.get(f"{self.address}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.5)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        """Ends it, where it runs; at once where it waits for connections to be closed."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


@contextmanager
def serve_mlflow(store: str, artifacts: Path) -> Iterator[str]:
    """An MLflow server on a store; its address."""
    server = MlflowServer(store, artifacts)
    try:
        server.start()
        yield server.address
    finally:
        server.stop()
