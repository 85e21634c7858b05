"""extism, driven line by line: a fresh instance and one call of a plugin that was compiled before."""

import json
import sys
import time

from extism.extism import CompiledPlugin, Plugin

compiled = None
for line in sys.stdin:
    asked = json.loads(line)
    if "module" in asked:
        with open(asked["module"], "rb") as file:
            compiled = CompiledPlugin(file.read(), functions=[])
        print(json.dumps({}), flush=True)
        continue
    data = asked["data"].encode()
    begun = time.perf_counter()
    for _ in range(asked["calls"]):
        given = Plugin(compiled).call("call", data)
        assert bytes(given) == data
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
