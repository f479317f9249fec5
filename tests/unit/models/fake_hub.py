"""A hub on a loopback port: the few routes that huggingface_hub calls to describe a repository and to fetch its files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves one repository; `fetched` and `tokens` record what was asked for. status, where set, is the answer to everything."""

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.repository = repository
        self.files = files
        self.fetched: list[str] = []
        self.tokens: set[str | None] = set()
        self.revisions: set[str] = set()
        self.status = 0
        self.error_code = ""
        self.endpoint = ""


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Runs the hub for the time of a with block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            path = self.path.partition("?")[0].strip("/")
            if hub.status:
                return self._send(hub.status, b"{}", {"X-Error-Code": hub.error_code}, with_body)
            if path.startswith(f"api/models/{hub.repository}/tree/"):
                return self._send(200, json.dumps(self._tree()).encode(), {}, with_body)
            if path.startswith(f"api/models/{hub.repository}"):
                hub.revisions.add(path.partition("/revision/")[2] or "main")
                return self._send(200, json.dumps(self._info()).encode(), {}, with_body)
            revision, _, name = path.removeprefix(f"{hub.repository}/resolve/").partition("/")
            if path.startswith(hub.repository) and name in hub.files:
                hub.revisions.add(revision)
                if with_body:
                    hub.fetched.append(name)
                content = hub.files[name]
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                return self._send(200, content, headers, with_body)
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

        def _info(self) -> dict[str, object]:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in hub.files.items()]
            return {"id": hub.repository, "sha": COMMIT, "siblings": siblings}

        def _tree(self) -> list[dict[str, object]]:
            return [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in hub.files.items()
            ]

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
