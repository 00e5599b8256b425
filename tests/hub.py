"""A stand-in for the Hugging Face Hub: the part of its protocol by which huggingface_hub brings models there.

Written after the requests that the library makes, and https://huggingface.co/docs/hub/api. Files that a hub keeps with
Git LFS go by its batch protocol, which the hub still takes from clients without the package hf_xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories by name, for those who know the token."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = token
        self.may_write = True
        self.repositories: dict[str, dict[str, bytes]] = {}
        """Files by name."""
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        """What was uploaded for LFS, by SHA-256."""
        self.commits: list[list[str]] = []
        """Names of the files of each."""
        self.asked: list[str] = []
        """Every request: method and path."""
        self.cut: set[str] = set()
        """Parts of paths whose next request is hung up on."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def about(self, repo: str) -> dict[str, Any]:
        siblings = []
        for name, data in self.repositories[repo].items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            row: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
            if by_lfs(name):
                digest = hashlib.sha256(data).hexdigest()
                row |= {"blobId": "0" * 40, "lfs": {"size": len(data), "sha256": digest, "pointerSize": 130}}
            siblings.append(row)
        return {"id": repo, "sha": "1" * 40, "private": self.private[repo], "siblings": siblings}

    def create(self, name: str, private: bool) -> None:
        self.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        self.private[name] = private

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        made = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                made[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                made[value["path"]] = self.blobs[value["oid"]]
        self.repositories[repo] |= made
        self.commits.append(sorted(made))


def by_lfs(name: str) -> bool:
    return name.endswith(".safetensors")


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while length := int(self.rfile.readline(), 16):
            data += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def handle_any(self) -> None:
        hub, path, body = self.server, self.path.partition("?")[0], self.body()
        hub.asked.append(f"{self.command} {path}")
        for part in [part for part in hub.cut if part in path]:
            hub.cut.discard(part)
            self.connection.close()
            return
        if found := re.fullmatch(r"/upload/([0-9a-f]{64})", path):  # a signed address: no token
            good = hashlib.sha256(body).hexdigest() == found[1]
            if good:
                hub.blobs[found[1]] = body
            self.answer({}, 200 if good else 400)
        elif self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        elif self.command == "POST" and not hub.may_write and path != "/api/validate-yaml":
            self.answer({"error": "You don't have the rights to write"}, 403)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif found := re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(\.git|/preupload|/commit)?(/.*)?", path):
            self.repository(found[1], (found[2] or "").strip("/"), body)

    do_GET = do_POST = do_PUT = handle_any

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repositories:
            self.answer({"error": "You already created this model repo"}, 409)
            return
        self.server.create(name, wanted.get("visibility") == "private" or wanted.get("private") is True)
        self.answer({"url": f"{self.server.url}/{name}", "name": name})

    def repository(self, name: str, what: str, body: bytes) -> None:
        hub = self.server
        if name not in hub.repositories:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif what == "preupload":
            asked = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            rows = [{"path": f["path"], "uploadMode": modes[by_lfs(f["path"])], "shouldIgnore": False} for f in asked]
            self.answer({"files": rows})
        elif what == ".git":
            objects = json.loads(body)["objects"]
            for one in objects:
                if one["oid"] not in hub.blobs:
                    one["actions"] = {"upload": {"href": f"{hub.url}/upload/{one['oid']}"}}
            self.answer({"transfer": "basic", "objects": objects})
        elif what == "commit":
            hub.commit(name, [json.loads(line) for line in body.splitlines()])
            self.answer({"commitUrl": f"{hub.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:
            self.answer(hub.about(name))
