"""The egress proxy with a resolver of the test's: argv[3] is JSON, a name to its addresses. Others go to the machine's."""

import asyncio
import json
import os
import sys

from interlock.isolation.egress.dial import system_resolver
from interlock.isolation.egress.server import main

NAMES = json.loads(sys.argv.pop(1))


async def resolve(host, port):
    if host in NAMES:
        if NAMES[host] == "hang":
            await asyncio.Event().wait()
        found = NAMES[host]
        if isinstance(found, str):  # a file with an address a line; each look-up takes the first away: rebinding
            with open(found) as file:
                first, *rest = file.read().split()
            if rest:
                with open(found, "w") as file:
                    file.write("\n".join(rest))
            return [first]
        return found
    if host.endswith(".test"):
        raise OSError("no such name")
    return await system_resolver(host, port)


assert os.path.exists("/proc/self")
main(resolve)
