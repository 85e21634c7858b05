"""Become a program in a network namespace of its own: user, mount and network namespaces, our listeners, a resolver's file.

Arguments: the descriptor of a socket that gets the listeners, extra ports (JSON), then the program and its arguments.
"""

import ctypes
import json
import os
import socket
import sys
import tempfile

from interlock.isolation.egress.listeners import configure, open_listeners

NEWUSER, NEWNS, NEWNET, MS_BIND, MS_REC, MS_PRIVATE = 0x10000000, 0x20000, 0x40000000, 4096, 16384, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main():
    channel, ports, argv = socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]), sys.argv[3:]
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(NEWUSER | NEWNS | NEWNET))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    with tempfile.TemporaryDirectory() as directory:
        for name, text in (
            ("resolv.conf", "nameserver 127.0.0.1\n"),
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
            ("hosts", "127.0.0.1 localhost\n"),
        ):
            path = os.path.join(directory, name)
            with open(path, "w") as file:
                file.write(text)
            check(libc.mount(path.encode(), f"/etc/{name}".encode(), None, MS_BIND, None))
    open_listeners(channel.detach(), ports, configure())
    os.execvp(argv[0], argv)


main()
