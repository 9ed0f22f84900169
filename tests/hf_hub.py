"""A hub on this machine that hands out one repository, as Hugging Face's answers; gated or not, with its revisions."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from mobilevd.artifacts import file_sha256

NAME = "somebody/svd"
TOKEN = "the-token-of-somebody"


class Hub:
    """What it hands out, commit by commit, and what it was asked for; ``gated``: to nobody without ``TOKEN``."""

    def __init__(self, commits: dict[str, Path], gated: bool = False):
        self.commits, self.gated = commits, gated
        self.main = next(iter(commits))
        self.given: list[str] = []

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        _, *parts = unquote(urlsplit(path).path).split("/")
        if path.startswith(f"/api/models/{NAME}/"):
            _, _, _, _, what, revision, *_ = parts
            return self._told(what, self.main if revision == "main" else revision)
        if not path.startswith(f"/{NAME}/resolve/"):
            return 401, {"X-Error-Message": "Invalid username or password."}, b""
        if self.gated and token != f"Bearer {TOKEN}":
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}, b""
        commit, file = parts[3], "/".join(parts[4:])
        self.given.append(file)
        found = self.commits[commit] / file
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{file_sha256(found)}"'}, found.read_bytes()

    def _told(self, what: str, commit: str) -> tuple[int, dict[str, str], bytes]:
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        folder = self.commits[commit]
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        tree = [
            {"type": "file", "path": f.relative_to(folder).as_posix(), "size": f.stat().st_size, "oid": file_sha256(f)}
            for f in files
        ]
        return 200, {}, json.dumps(tree if what == "tree" else {"id": NAME, "sha": commit}).encode()


@contextmanager
def serving(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Ask it instead of Hugging Face's, with an empty ``cache`` and no token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = hub.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    told = {"ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}"}
    told |= {"HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(cache / "no-token")}
    for name, value in told.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
