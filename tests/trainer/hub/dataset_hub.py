"""A server on this machine that speaks the hub's protocol for dataset repositories, where its client asks."""

import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 100_000


class DatasetHub(ThreadingHTTPServer):
    """`repositories` is name -> commit -> path -> bytes, newest commit last; `closed` is name -> error code.

    `sent` counts the bytes of all answers; `pause` is the time after each CHUNK, seconds.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.closed, self.asked, self.tokens = {}, {}, [], set()
        self.sent, self.pause, self.is_gone = 0, 0.0, False

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name, files):
        """A new commit with these files alone; its hash."""
        commits = self.repositories.setdefault(name, {})
        sha = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits[sha] = files
        return sha

    def asked_for(self, text):
        return [path for path in self.asked if text in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self):
        if self.server.is_gone:  # a connection that the client has kept open
            self.close_connection = True
            return None
        place = urlsplit(self.path)
        path, query = unquote(place.path), parse_qs(place.query)
        self.server.asked.append(f"{self.command} {path}")
        found = re.fullmatch(r"(/api)?/datasets/([^/]+/[^/]+)(?:/(\w[\w-]*)/?(.*))?", path)
        if found is None:
            return self.refuse(404, "RepoNotFound")
        self.server.tokens.add(self.headers.get("Authorization"))
        api, name, what, rest = found.groups()
        if name in self.server.closed and not (what in (None, "revision") and api and self.may_list(name)):
            code = self.server.closed[name]
            return self.refuse(403 if code == "GatedRepo" else 401, code)
        commits = self.server.repositories.get(name)
        if commits is None:
            return self.refuse(404, "RepoNotFound")
        revision, _, inside = (rest or "").partition("/")
        sha = list(commits)[-1] if revision in ("", "main") else revision
        if sha not in commits:
            return self.refuse(404, "RevisionNotFound")
        files = commits[sha]
        if api:
            return self.answer(what, name, sha, files, inside, query)
        return self.send_file(sha, files, inside)

    def may_list(self, name):
        return self.server.closed[name] == "GatedRepo"

    def answer(self, what, name, sha, files, inside, query):
        if what in (None, "revision"):
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            return self.json({"id": name, "sha": sha, "siblings": siblings, "private": False, "gated": False})
        entries = {path: self.entry(path, data) for path, data in files.items()}
        for path in files:
            for parent in [path[:i] for i, letter in enumerate(path) if letter == "/"]:
                entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
        if what == "paths-info":
            try:
                wanted = json.loads(self.body)["paths"]
            except ValueError:
                wanted = parse_qs(self.body.decode())["paths"]
            return self.json([entries[path] for path in wanted if path in entries])
        if what == "tree":
            inside = inside.strip("/")
            if inside and inside not in entries:
                return self.refuse(404, "EntryNotFound")
            below = {p: e for p, e in entries.items() if not inside or p.startswith(f"{inside}/")}
            if query.get("recursive", ["false"])[0].lower() != "true":
                depth = len(inside.split("/")) if inside else 0
                below = {p: e for p, e in below.items() if len(p.split("/")) == depth + 1}
            return self.json([below[p] for p in sorted(below)])
        return self.refuse(404, "EntryNotFound")

    @staticmethod
    def entry(path, data):
        return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def send_file(self, sha, files, inside):
        if inside not in files:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
        data, status = files[inside], 200
        headers = {
            "X-Repo-Commit": sha,
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        return self.send(status, data, "application/octet-stream", headers)

    def json(self, values):
        self.send(200, json.dumps(values).encode(), "application/json", {})

    def refuse(self, status, code, headers=None):
        message = "You must be authenticated" if status in (401, 403) else code
        self.send(
            status,
            b"{}",
            "application/json",
            {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})},
        )

    def send(self, status, data, kind, headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(data) if self.command != "HEAD" else 0, CHUNK):
            self.wfile.write(data[start : start + CHUNK])
            self.server.sent += len(data[start : start + CHUNK])
            time.sleep(self.server.pause)

    def log_message(self, *_):
        pass


@contextmanager
def running_hub():
    with DatasetHub() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
