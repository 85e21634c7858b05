"""An MCP server for the tests: plain frames, standard library only. Its one argument is a JSON file that says what it offers.

The file is read again for each list, so that a test changes a definition by writing it. What a tool does is its name.
"""

import json
import os
import sys
import time

SCRIPT = sys.argv[1]
waiting = {}
greeting = {}


def script():
    with open(SCRIPT) as file:
        return json.load(file)


def send(message):
    sys.stdout.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
    sys.stdout.flush()


def text(words, **more):
    return {"content": [{"type": "text", "text": words}], **more}


def call(request, name, arguments):
    """The result, or None if it comes later or never."""
    match name:
        case "echo":
            return text("echo: " + arguments["text"])
        case _ if name.startswith("say"):
            return text(name)
        case "pid":
            return text(str(os.getpid()))
        case "environment":
            return text(json.dumps(dict(os.environ)))
        case "write":
            try:
                with open(arguments["path"], "w") as file:
                    file.write("written")
            except OSError as error:
                return text(str(error), isError=True)
            return text("written")
        case "fail":
            return text("it did not work", isError=True)
        case "late":  # has its effect after a while, whatever the client does meanwhile
            time.sleep(0.5)
            with open(arguments["path"], "a") as file:
                file.write("x")
            if arguments.get("dies"):
                os._exit(3)
            time.sleep(arguments.get("longer", 0))
            return text("done")
        case "crash":
            print("my last words", file=sys.stderr, flush=True)
            os._exit(3)
        case "noise":  # much on standard error
            for number in range(arguments["lines"]):
                print(f"line {number} " + "x" * 1000, file=sys.stderr)
            sys.stderr.flush()
            return text("said")
        case "hang":
            time.sleep(3600)
        case "big":
            return text("x" * arguments["bytes"])
        case "result":  # a result as the caller wants it
            return arguments["result"]
        case "lines":  # sends these lines first
            for line in arguments["lines"]:
                send(line)
            return text("after them")
        case "progress":
            token = request["params"].get("_meta", {}).get("progressToken")
            for step in (1, 2):
                params = {"progressToken": token, "progress": step, "total": 2, "message": f"step {step}"}
                send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            return text("done")
        case "reports":  # progress as the caller wants it
            token = request["params"]["_meta"]["progressToken"]
            for report in arguments.get("reports") or [{"progress": n} for n in range(arguments["count"])]:
                params = {"progressToken": token, **report}
                send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            return text("reported")
        case "meta":  # what came with the call
            return text(json.dumps(request["params"].get("_meta", {})))
        case "several" if "inputResponses" in request["params"]:
            return text(json.dumps(request["params"]["inputResponses"]))
        case "several":  # asks several things at once, as a server of 2026-07-28
            return {"resultType": "input_required", "inputRequests": arguments["questions"]}
        case "refuse":  # an error in place of a result
            return {"error": arguments["error"]}
        case "greeting":  # what the client said that it can be asked
            return text(json.dumps(greeting))
        case "log":
            params = {"level": "error", "data": "a log message"}
            send({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
            params = {"elicitationId": "e1", "more": "x"}
            send({"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": params})
            return text("logged")
        case "input" if "inputResponses" in request["params"]:  # as a server of 2026-07-28 asks
            return text(
                json.dumps(request["params"]["inputResponses"]["q"] | {"state": request["params"]["requestState"]})
            )
        case "input":
            questions = {"q": {"method": arguments["method"], "params": arguments["params"]}}
            return {"resultType": "input_required", "inputRequests": questions, "requestState": "own"}
        case "ask":  # asks the client, and answers with what that said
            asked = f"ask-{request['id']}"
            waiting[asked] = request["id"]
            send({"jsonrpc": "2.0", "id": asked, "method": arguments["method"], "params": arguments["params"]})
    return None


def answer(request):
    if request["method"] in ("server/discover", "initialize"):
        time.sleep(script().get("delay", 0))
    match request["method"]:
        case "server/discover" if script().get("modern") or script().get("both"):
            about = {"name": "scripted", "version": "1"}
            return {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "serverInfo": about}
        case "initialize" if not script().get("modern"):
            said = script()
            if said.get("silent"):
                return None
            if said.get("dies"):
                print(said["dies"], file=sys.stderr, flush=True)
                os._exit(1)
            greeting.update(request["params"]["capabilities"])
            wanted = request["params"]["protocolVersion"]
            return {
                "protocolVersion": said.get("revision", wanted),
                "capabilities": {"tools": {"listChanged": True}, **said.get("capabilities", {})},
                "serverInfo": {"name": "scripted", "version": "1"},
                **({"instructions": said["instructions"]} if "instructions" in said else {}),
            }
        case "tools/list":
            tools = script()["tools"]
            start = int(request["params"].get("cursor", 0))
            more = {"nextCursor": str(start + 3)} if start + 3 < len(tools) else {}
            return {"tools": tools[start : start + 3], **more}
        case "tools/call":
            return call(request, request["params"]["name"], request["params"].get("arguments", {}))
        case "ping":
            return {}
        case other if other in script().get("answers", {}):
            return script()["answers"][other]
    return {"error": f"no method {request['method']}"}


for line in sys.stdin:
    message = json.loads(line)
    if "method" not in message:
        asked = waiting.pop(message["id"], None)
        if asked is not None:
            said = message.get("result", message.get("error"))
            send({"jsonrpc": "2.0", "id": asked, "result": text(json.dumps(said))})
        continue
    if "id" not in message:
        continue
    found = answer(message)
    if found is not None and isinstance(found.get("error"), str):
        send({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": found["error"]}})
    elif found is not None and isinstance(found.get("error"), dict):
        send({"jsonrpc": "2.0", "id": message["id"], **found})
    elif found is not None:
        send({"jsonrpc": "2.0", "id": message["id"], "result": found})
