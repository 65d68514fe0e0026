"""A Hugging Face hub in memory, behind the HTTP client of the real library; sockets are refused."""

from __future__ import annotations

import base64
import importlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import huggingface_hub
import pytest
from huggingface_hub.utils import _http

HOST = "huggingface.co"


class FakeHub:
    """Repositories by name, what was asked for, and how the hub shall misbehave.

    Attributes:
        repositories: by OWNER/NAME, contents by file name.
        is_private: by OWNER/NAME.
        calls: method and path of every request.
        commits: of every commit, what it says, adds and deletes.
        refusal: status with which requests are refused whose path holds a text; None: none are.
        failure: raised in place of an answer.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.is_private: dict[str, bool] = {}
        self.calls: list[str] = []
        self.commits: list[dict[str, Any]] = []
        self.refusal: tuple[str, int] | None = None
        self.failure: Exception | None = None

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        """Return status and JSON."""
        self.calls.append(f"{method} {path}")
        if self.failure is not None:
            raise self.failure
        if self.refusal is not None and self.refusal[0] in path:
            return self.refusal[1], {"error": "not for you"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        owner, name, *more = path.removeprefix("/api/models/").split("/")
        repository, what = self.repositories.get(f"{owner}/{name}"), (*more, "info")[0]
        if repository is None:
            return 404, {"error": "Repository not found"}
        if what in ("info", "revision"):
            return 200, {"id": f"{owner}/{name}", "siblings": [{"rfilename": file} for file in repository]}
        if what == "tree":
            return 200, [
                {"type": "file", "path": file, "size": len(content), "oid": "0"}
                for file, content in repository.items()
            ]
        if what == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {
                "files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in names]
            }
        assert (method, what) == ("POST", "commit"), path
        return self._commit(f"{owner}/{name}", body)

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        url = f"https://{HOST}/{repo_id}"
        if repo_id in self.repositories:
            return 409, {"error": "You already created this model repo", "url": url}
        self.repositories[repo_id] = {}
        self.is_private[repo_id] = wanted.get("visibility") == "private" or wanted.get("private") is True
        return 200, {"url": url}

    def _commit(self, repo_id: str, body: bytes) -> tuple[int, Any]:
        lines = [json.loads(line) for line in body.decode().splitlines()]
        files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
        deleted = [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
        added = {name: base64.b64decode(content) for name, content in files.items()}
        self.commits.append(
            {"summary": lines[0]["value"]["summary"], "added": sorted(added), "deleted": deleted}
        )
        for name in deleted:
            del self.repositories[repo_id][name]
        self.repositories[repo_id] |= added
        return 200, {"commitUrl": f"https://{HOST}/{repo_id}/commit/1", "commitOid": "1"}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Be the hub for the body, with a token stored; whatever else reaches for the network fails."""
    hub, httpx = FakeHub(), importlib.import_module(_client_library())

    def handle(request: Any) -> Any:
        assert request.url.host == HOST, request.url
        query = parse_qs(request.url.query.decode())
        status, answer = hub.answer(request.method, request.url.path, query, request.read())
        return httpx.Response(status, json=answer, request=request)

    def refuse(*_: Any) -> Any:
        raise AssertionError("the network was reached for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setenv("HF_TOKEN", "hf_fake")
        huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(handle)))
        try:
            yield hub
        finally:
            huggingface_hub.set_client_factory(_http.default_client_factory)


def _client_library() -> str:
    """Return the name of the HTTP library: another one in other versions."""
    return type(huggingface_hub.get_session()).__module__.split(".")[0]
