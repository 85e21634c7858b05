"""A capsule that uses files, keys and values, HTTP, the event bus and an uplink."""

import json
import os
import socket

import wit_world
from wit_world.imports import clock, fs_read, fs_write, http, ipc_publish, ipc_subscribe, kv, log, uplink


class WitWorld(wit_world.WitWorld):
    def call_tool(self, name: str, args: str) -> str:
        given = json.loads(args)
        if name == "save":
            return json.dumps(save(given["url"], given["name"]))
        if name == "hand-on":
            uplink.send(json.dumps({"uplink": "chat", **given}))
            return "null"
        return json.dumps(inside())

    def on_message(self, message: str) -> None:
        log.write(1, f"somebody wants a note: {json.loads(message)['data']}")

    def on_outbound(self, message: str) -> None:
        kv.set("sent", message.encode())

    def run(self) -> None:
        saved = ipc_subscribe.subscribe("notes.saved")
        while True:
            for note in json.loads(ipc_subscribe.poll(saved, 10)):
                told = f"saved {note['data']}" if "data" in note else "saved more than could be told"
                uplink.send(json.dumps({"uplink": "chat", "user": "everyone", "content": told}))
            clock.sleep(500)


def save(url: str, name: str) -> dict:
    answer = json.loads(http.fetch(json.dumps({"url": url})))
    fs_write.write(f"notes/{name}", answer["body"].encode())
    try:
        count = int(kv.get("count")) + 1
    except Exception:  # there is no such key yet
        count = 1
    kv.set("count", str(count).encode())
    ipc_publish.publish("notes.saved", name.encode())
    return {"status": answer["status"], "notes": fs_read.list("notes"), "saved": count}


def inside() -> dict:
    """What a program could find out about its machine. Here: nothing."""
    print("looking around")  # a line of the log
    return {
        "environment": dict(os.environ),
        "files": attempt(lambda: os.listdir("/")),
        "password": attempt(lambda: open("/etc/passwd").read()),
        "write": attempt(lambda: open("/home/x", "w").write("x")),
        "host": attempt(lambda: socket.create_connection(("127.0.0.1", 80), 1)),
        "name": attempt(lambda: socket.getaddrinfo("localhost", 80)),
    }


def attempt(action) -> str:
    try:
        return repr(action())
    except Exception as error:
        return f"{type(error).__name__}"
