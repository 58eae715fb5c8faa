"""A server on loopback that speaks as much of the protocol of the Hugging Face hub as an upload of a model needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_a_token_that_may_write"


class Hub:
    """What the hub has been given. `files` are the contents of the repositories, by `NAME/path`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.refuses: str | None = None
        self.stored: dict[str, bytes] = {}
        self.address = ""

    def of(self, name: str) -> list[str]:
        """The paths of the files of a repository."""
        return [key.removeprefix(f"{name}/") for key in self.files if key.startswith(f"{name}/")]

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Applies the lines of a commit: a header, files with their content, files by their hash, and deletions."""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                self.files[f"{name}/{value['path']}"] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[f"{name}/{value['path']}"] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[f"{name}/{value['path']}"]


@contextmanager
def hub() -> Iterator[Hub]:
    """Context in which a hub runs at `Hub.address`."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._say(401, {"error": "Invalid credentials in Authorization header"})
            elif path == "/api/whoami-v2":
                self._say(200, {"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}})
            elif "/tree/" in path:
                name = path.removeprefix("/api/models/").partition("/tree/")[0]
                sizes = {key: len(hub.files[f"{name}/{key}"]) for key in hub.of(name)}
                rows = [{"type": "file", "path": key, "size": size, "oid": "0"} for key, size in sizes.items()]
                self._say(200, rows)
            elif path.startswith("/api/models/"):
                name = path.removeprefix("/api/models/").partition("/revision/")[0]
                siblings = [{"rfilename": key} for key in hub.of(name)]
                self._say(200, {"id": name, "modelId": name, "sha": "0" * 40, "siblings": siblings, "private": True})
            else:
                self._say(404, {"error": "Entry not found"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            if hub.refuses is not None:
                self._say(403, {"error": hub.refuses})
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                code = 409 if name in hub.private else 200
                # Older clients send `private`, and newer ones `visibility`.
                hub.private.setdefault(name, asked.get("private", asked.get("visibility") == "private"))
                self._say(code, {"url": f"{hub.address}/{name}", "name": name})
            elif path == "/api/validate-yaml":
                try:
                    yaml.safe_load(json.loads(body)["content"].split("---")[1])
                    self._say(200, {"warnings": [], "errors": []})
                except yaml.YAMLError as error:
                    self._say(400, {"warnings": [], "errors": [{"message": str(error)}]})
            elif "/preupload/" in path:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self._say(200, {"files": modes})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**wanted, "actions": {"upload": {"href": f"{hub.address}/put/{wanted['oid']}"}}}
                    for wanted in json.loads(body)["objects"]
                ]
                self._say(200, {"transfer": "basic", "objects": objects})
            elif "/commit/" in path:
                name = path.removeprefix("/api/models/").partition("/commit/")[0]
                hub.commit(name, [json.loads(line) for line in body.decode().splitlines() if line])
                self._say(200, {"commitUrl": f"{hub.address}/{name}/commit/0", "commitOid": "0" * 40, "success": True})
            else:
                self._say(404, {"error": "Entry not found"})

        def do_PUT(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                body = b"".join(parts)
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            oid = self.path.removeprefix("/put/")
            # The storage refuses what does not have the hash that was announced.
            if hashlib.sha256(body).hexdigest() != oid:
                self._say(400, {"error": "the content has another hash"})
                return
            hub.stored[oid] = body
            self._say(200, {})

        def _say(self, code: int, answer: object) -> None:
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
