"""Handlers of the servers that programs in tests talk to, and the environment of these programs."""

from __future__ import annotations

import http.server
import json
import os


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class Echo(Quiet):
    """Says what it got: method, path, host, body."""

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        fields = {k.lower(): v for k, v in self.headers.items()}
        data = json.dumps(
            {"method": self.command, "path": self.path, "headers": fields, "body": body.decode()}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_POST = do_PUT = do_HEAD = do_DELETE = do_GET  # noqa: N815


def files_of(directory):
    """A handler that serves the files of a directory."""
    return type("Files", (Quiet,), {"__init__": lambda self, *a, **k: http.server.SimpleHTTPRequestHandler.__init__(
        self, *a, directory=os.fspath(directory), **k)})  # fmt: skip


def plain_environment():
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8"}
