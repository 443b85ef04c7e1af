"""A stand-in of the hub's HTTP interface on loopback: repositories with commits, in memory.

It answers what huggingface_hub 0.36 to 2.x asks to create, upload, list and download: `with Hub() as hub`, then a
process with `hub.environment(home)` talks to it and to nothing else. Xet is off: large files go by LFS.
"""

import base64
import hashlib
import json
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"


@dataclass
class Repo:
    private: bool
    commits: dict = field(default_factory=dict)
    """Commit → {path: content}."""
    branches: dict = field(default_factory=dict)

    def commit(self, branch, files):
        oid = hashlib.sha1(repr((sorted(files), len(self.commits), branch)).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def resolve(self, revision):
        oid = self.branches.get(revision, revision)
        return oid if oid in self.commits else None


class Hub:
    """The server; `repos` is what it holds, `requests` what it was asked, `refused` what it answers with 403."""

    def __init__(self):
        self.repos, self.objects, self.requests = {}, {}, []
        self.refused = ()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def environment(self, home, token=TOKEN):
        """Return the variables of a process that uses this hub, with its cache in a folder."""
        away = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
        kept = {name: value for name, value in os.environ.items() if name not in away}
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
        own |= {**nowhere, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return kept | own | ({"HF_TOKEN": token} if token else {})

    def files(self, name, revision="main"):
        """Return {path: content} of a repository at a revision."""
        repo = self.repos[name]
        return repo.commits[repo.resolve(revision)]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _serve(self):
        path, self.body = unquote(urlsplit(self.path).path), b""
        if length := int(self.headers.get("Content-Length") or 0):
            self.body = self.rfile.read(length)
        elif self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.hub.requests.append((self.command, path))
        authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.command == "POST" and not authorized and path != "/api/validate-yaml":
            self._error(401, "Invalid username or password.")
            return
        if any(part in path for part in self.hub.refused):
            self._error(403, "Forbidden: your token may not write here.")
            return
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, path):
                with suppress(BrokenPipeError):
                    answer(self, **found.groupdict())
                return
        self._error(404, f"no route {path}")

    def _json(self, content, status=200, **headers):
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **headers})

    def _error(self, status, message, code=None):
        extra = {"X-Error-Code": code} if code else {}
        self._send(json.dumps({"error": message}).encode(), status, {"X-Error-Message": message, **extra})

    def _send(self, content, status, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _found(self, name, revision="main"):
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(404, "Repository not found", "RepoNotFound")
            return None, None
        oid = repo.resolve(revision)
        if oid is None:
            self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, oid

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.hub.repos:
            self._error(409, f"You already created this model repo: {name}")
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repos[name] = Repo(private)
        self.hub.repos[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def who(self):
        self._json({"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def validate(self):
        self._json({"errors": [], "warnings": []})

    def info(self, name, revision="main"):
        repo, oid = self._found(name, revision)
        if oid is not None:
            files = [{"rfilename": path} for path in repo.commits[oid]]
            self._json(
                {"id": name, "modelId": name, "sha": oid, "siblings": files, "private": repo.private, "tags": []}
            )

    def tree(self, name, revision, folder=None):
        repo, oid = self._found(name, revision)
        if oid is None:
            return
        entries = []
        for path, content in repo.commits[oid].items():
            if path.startswith(folder or ""):
                size = {"path": path, "size": len(content), "oid": _blob(content)}
                large = (
                    {"lfs": {"oid": _sha(content), "size": len(content), "pointerSize": 134}} if _is_lfs(path) else {}
                )
                entries.append({"type": "file", **size, **large})
        self._json(entries)

    def refs(self, name):
        repo, oid = self._found(name)
        if oid is not None:
            rows = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": oid} for b, oid in repo.branches.items()]
            self._json({"branches": rows, "tags": [], "converts": []})

    def branch(self, name, branch):
        repo, oid = self._found(name)
        if oid is None:
            return
        if branch in repo.branches:
            self._error(409, "Reference already exists")
            return
        repo.branches[branch] = oid
        self._json({})

    def preupload(self, name, revision):
        _, oid = self._found(name, revision)
        if oid is None:
            return
        files = json.loads(self.body)["files"]
        modes = [{"path": f["path"], "uploadMode": "lfs" if _is_lfs(f["path"]) else "regular"} for f in files]
        self._json({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})

    def batch(self, name):
        asked, rows = json.loads(self.body), []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}
            rows.append({**one, **({} if one["oid"] in self.hub.objects else {"actions": upload})})
        self._json({"transfer": "basic", "objects": rows})

    def put(self, oid):
        if _sha(self.body) != oid:
            self._error(400, "another checksum")
            return
        self.hub.objects[oid] = self.body
        self._send(b"", 200, {})

    def commit(self, name, revision):
        repo, oid = self._found(name, revision)
        if oid is None:
            return
        files = dict(repo.commits[oid])
        for line in self.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        new = repo.commit(revision, files)
        self._json({"success": True, "commitUrl": f"{self.hub.url}/{name}/commit/{new}", "commitOid": new})

    def resolve(self, name, revision, path):
        repo, oid = self._found(name, revision)
        if oid is None:
            return
        content = repo.commits[oid].get(path)
        if content is None:
            self._error(404, f"Entry not found: {path}", "EntryNotFound")
            return
        tag = _sha(content) if _is_lfs(path) else _blob(content)
        self._send(content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": oid})


def _is_lfs(path):
    return path.endswith((".safetensors", ".pt", ".png"))


def _sha(content):
    return hashlib.sha256(content).hexdigest()


def _blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES = [
    (r"/api/repos/create", _Handler.create),
    (r"/api/whoami-v2", _Handler.who),
    (r"/api/validate-yaml", _Handler.validate),
    (rf"/api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    (rf"/api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (rf"/api/models/{_NAME}/branch/(?P<branch>.+)", _Handler.branch),
    (rf"/api/models/{_NAME}/refs", _Handler.refs),
    (rf"/api/models/{_NAME}/tree/{_REVISION}(/(?P<folder>.*))?", _Handler.tree),
    (rf"/api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    (rf"/api/models/{_NAME}", _Handler.info),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.put),
    (rf"/{_NAME}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
]
