"""A small stand-in for the Hub on loopback, with the part of its protocol that `datasets` and `huggingface_hub` use on data sets and models.

    with Hub({"owner/name": {"README.md": b"...", "data/train.jsonl": b"..."}}) as hub:
        run(hub, home, program, argument)  # with HF_ENDPOINT=hub.url
        hub.log                            # what it asked for: ("GET", "owner/name", "data/train.jsonl"), ...

Large files of the Hub are named by their SHA-256 and served from another address after a redirect: so are data and weights here.
Any name is a data set and a model at once. A fault is a word for a name: see `Handler.spoil`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

FILE = re.compile(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
BLOB = re.compile(r"/blobs/([^/]+/[^/]+)/(.+)")


class Hub:
    def __init__(self, repositories, faults=None):
        self.repositories, self.faults, self.log = repositories, faults or {}, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.store = f"http://localhost:{self.server.server_port}"  # another host, as the Hub's store of large files is

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name):
        """40 digits that depend on the content, as a commit's do."""
        return hashlib.sha1(json.dumps([(path, hashlib.sha1(body).hexdigest()) for path, body in self.repositories[name].items()]).encode()).hexdigest()


def run(hub, home, program, argument, **env):
    """Run a Python program with a Hub and a cache, in a process of its own because the libraries read their settings when they are imported.

    It finds the argument as JSON in sys.argv[1], and prints "=> " and a JSON pair for each answer: the result is a dict of these.
    """
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_UPDATE_DOWNLOAD_COUNTS": "0",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60", "NO_PROXY": "*",
                "PYTHONPATH": str(Path(__file__).resolve().parent.parent / "src")} | env  # patient, because the machine may be busy
    done = subprocess.run([sys.executable, "-c", program, json.dumps(argument)], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line[3:]) for line in done.stdout.splitlines() if line.startswith("=> "))


def is_large(path):
    return path.endswith((".jsonl", ".parquet", "split.json", ".safetensors", ".bin"))


def git_hash(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def sha256(body):
    return hashlib.sha256(body).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub, protocol_version = None, "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.serve()

    def do_GET(self):
        self.serve()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.serve()

    def serve(self):
        path = unquote(urlparse(self.path).path)
        for pattern, answer in ((FILE, self.file), (BLOB, self.blob), (API, self.api)):
            if match := pattern.fullmatch(path):
                if match[1] not in self.hub.repositories:
                    return self.refuse(404, "RepoNotFound", "Repository not found")
                return answer(*match.groups())
        self.refuse(404, "EntryNotFound", "Entry not found")

    # The three kinds of request

    def file(self, name, revision, path):
        """A file at a revision: a small one itself, a large one by a redirect that already names its hash and size."""
        self.hub.log.append((self.command, name, path if not is_large(path) else f"pointer of {path}"))
        if self.spoil(name, path):
            return
        if path not in self.hub.repositories[name]:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": self.hub.commit(name)})
        body = self.hub.repositories[name][path]
        headers = {"X-Repo-Commit": self.hub.commit(name), "Accept-Ranges": "bytes"}
        if not is_large(path):
            return self.send(200, body, headers | {"ETag": f'"{git_hash(body)}"'})
        headers |= {"X-Linked-Etag": f'"{sha256(body)}"', "X-Linked-Size": str(len(body)), "Location": f"{self.hub.store}/blobs/{name}/{path}"}
        self.send(302, b"", headers)

    def blob(self, name, path):
        """The content of a large file, or a range of it."""
        self.hub.log.append((self.command, name, path))
        body, start = self.hub.repositories[name][path], 0
        if self.headers.get("Range"):
            start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"]).groups()
            start, end = int(start), int(end or len(body) - 1)
            part, headers = body[start : end + 1], {"Content-Range": f"bytes {start}-{min(end, len(body) - 1)}/{len(body)}"}
        else:
            part, headers = body, {}
        self.send(206 if headers else 200, part, headers | {"Accept-Ranges": "bytes", "ETag": f'"{sha256(body)}"'}, fault=self.hub.faults.get(name))

    def api(self, name, kind, revision, path):
        """What is in a repository: all about it, a folder's entries, or some paths."""
        self.hub.log.append((self.command, name, f"api {kind or 'info'}"))
        if self.spoil(name, "api"):
            return
        files = self.hub.repositories[name]
        if kind in (None, "revision"):
            info = {"_id": "0", "id": name, "sha": self.hub.commit(name), "private": False, "gated": False, "disabled": False, "downloads": 0,
                    "likes": 0, "tags": [], "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
                    "siblings": [{"rfilename": file} for file in files]}
            return self.send_json(info)
        if kind == "tree":
            found = [self.entry(name, file) for file in files if not path or file.startswith(f"{path}/")]
            folders = {file.rsplit("/", 1)[0] for file in files if "/" in file and (not path or file.startswith(f"{path}/"))} - {path}
            return self.send_json(found + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)])
        asked = json.loads(self.body)["paths"]
        found = [self.entry(name, file) for file in asked if file in files]
        found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in asked
                  if folder not in files and any(file.startswith(f"{folder}/") for file in files)]
        self.send_json(found)

    def entry(self, name, path):
        body = self.hub.repositories[name][path]
        entry = {"type": "file", "oid": git_hash(body), "size": len(body), "path": path}
        return entry | ({"lfs": {"oid": sha256(body), "size": len(body), "pointerSize": 130}} if is_large(path) else {})

    # Answers, good and bad

    def spoil(self, name, path):
        """Faults of requests by name: "busy" answers the first two for the card with 429, "very busy" all of them,
        "down" with 503; "gated" lets see what there is, and gives none of it."""
        fault = self.hub.faults.get(name)
        tries = sum(entry == (self.command, name, path) for entry in self.hub.log)
        if fault == "very busy" or fault == "busy" and path == "README.md" and tries <= 2:
            self.refuse(429, "", "Too many requests", {"Retry-After": "0"})
        elif fault == "down":
            self.refuse(503, "", "Service unavailable")
        elif fault == "gated" and path != "api":
            self.refuse(401, "GatedRepo", "Access to this model is restricted")
        else:
            return False
        return True

    def send(self, status, body, headers, fault=None):
        """Faults of content: "cut" breaks the first connection in the middle, "always cut" each of them, the later ones before any
        byte; "forged" changes a byte, "short" leaves out the last ones."""
        first = sum(entry[0] == "GET" and is_large(entry[2]) and entry[1] in self.path for entry in self.hub.log) == 1
        if fault == "forged":
            body = body[:-3] + bytes([body[-3] ^ 1]) + body[-2:]
        body = body[:-10] if fault == "short" else body
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut" and first or fault == "always cut":
            body, self.close_connection = body[: len(body) // 2 * first], True
        self.wfile.write(body)

    def send_json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code, message, headers=None):
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": message} | (headers or {}))
