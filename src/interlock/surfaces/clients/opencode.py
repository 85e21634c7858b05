"""opencode: in replace mode its own tools are denied and the gateway is started; in guard mode a plug-in asks the gate.

Tested with version 1.18.33. It has no command hooks, so the plug-in starts the hook program; a call is blocked by an
exception of the plug-in. Sources: its documentation of settings and plug-ins, and trials with the program.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from interlock.surfaces.clients import opencode_trial
from interlock.surfaces.clients.client import HOOK_SECONDS, SERVER, Client, Setup, gateway_entry, home_of, hook_command
from interlock.surfaces.clients.entries import Entry
from interlock.surfaces.clients.opencode_hooks import PROBE, OpencodeHooks

TESTED: Final = "1.18.33"
NATIVE: Final = (
    "bash", "edit", "read", "glob", "grep", "list", "webfetch", "websearch", "codesearch", "lsp", "external_directory",
)  # fmt: skip
"""Permissions of its own tools; `edit` covers all that change files. If denied, the tools are not offered to the model."""
GATEWAY_MS: Final = 120_000
_PLUGIN: Final = """// Written by `interlock install opencode`; `interlock install opencode --remove` removes it.
// Before each tool call it asks Interlock's gate. Without an answer, the call is blocked.
import { spawn } from "node:child_process"

const COMMAND = @COMMAND@
const LIMIT_MS = @LIMIT@

function ask(event) {
  return new Promise((resolve, reject) => {
    const hook = spawn("/bin/sh", ["-c", COMMAND], { stdio: ["pipe", "pipe", "pipe"] })
    const out = []
    const err = []
    const timer = setTimeout(() => {
      hook.kill("SIGKILL")
      reject(new Error("Interlock: no answer in time, so nothing is allowed"))
    }, LIMIT_MS)
    hook.stdout.on("data", (data) => out.push(data))
    hook.stderr.on("data", (data) => err.push(data))
    hook.stdin.on("error", () => {})
    hook.on("error", (error) => {
      clearTimeout(timer)
      reject(new Error(`Interlock: the hook does not start, so nothing is allowed: ${error.message}`))
    })
    hook.on("close", (code) => {
      clearTimeout(timer)
      const output = Buffer.concat(out).toString()
      if (code !== 0) return reject(new Error(Buffer.concat(err).toString().trim() || "Interlock: nothing is allowed"))
      try {
        resolve(JSON.parse(output))
      } catch {
        reject(new Error("Interlock: the hook's answer is invalid, so nothing is allowed"))
      }
    })
    hook.stdin.end(JSON.stringify(event))
  })
}

export const Interlock = async ({ directory }) => ({
  "tool.execute.before": async (input, output) => {
    const { tool, sessionID, callID } = input
    const answer = await ask({ name: "before", tool, sessionID, callID, args: output.args, directory })
    if (answer.decision !== "allow") throw new Error(answer.reason || "Interlock: not allowed")
  },
  "tool.execute.after": async (input, output) => {
    const { tool, sessionID, callID, args } = input
    const { title, metadata } = output ?? {}
    const outcome = { title, exit: metadata?.exit }
    await ask({ name: "after", tool, sessionID, callID, args, directory, output: outcome }).catch(() => {})
  },
  event: async ({ event }) => {
    if (event.type !== "session.idle") return
    await ask({ name: "end", sessionID: event.properties.sessionID, directory }).catch(() => {})
  },
})
"""


def files(setup: Setup) -> dict[str, tuple[Entry, ...]]:
    """See `Client.files`."""
    if setup.mode == "guard":
        return {f"{'.opencode/' if setup.project else ''}plugin/interlock.js": (Entry((), plugin(setup)),)}
    gateway = gateway_entry(setup)
    server = {
        "type": "local",
        "command": [gateway["command"], *gateway["args"]],
        "enabled": True,
        "timeout": GATEWAY_MS,
        **({"environment": gateway["env"]} if "env" in gateway else {}),
    }
    name = "opencode.jsonc" if (setup.root / "opencode.jsonc").is_file() else "opencode.json"
    return {
        name: (
            Entry(("mcp", SERVER), server),
            *(Entry(("permission", permission), "deny") for permission in NATIVE),
        )
    }


def plugin(setup: Setup) -> str:
    """The plug-in's source."""
    command = json.dumps(hook_command("opencode", setup))
    return _PLUGIN.replace("@LIMIT@", str((HOOK_SECONDS + 10) * 1000)).replace("@COMMAND@", command)


def _user_directory(setup: Setup) -> Path:
    named = setup.env.get("XDG_CONFIG_HOME")
    return (Path(named) if named else home_of(setup) / ".config") / "opencode"


CLIENT: Final = Client(
    name="opencode",
    program="opencode",
    tested=(TESTED,),
    modes=("replace", "guard"),
    scopes={
        ("replace", "project"): lambda setup: setup.root,
        ("guard", "project"): lambda setup: setup.root,
        ("guard", "user"): _user_directory,
    },
    files=files,
    comments=True,
    dialect=OpencodeHooks(),
    open_doors={
        "guard": (
            "a plug-in that does not load lets all calls pass: `--pure`, `OPENCODE_PURE`, `OPENCODE_DISABLE_PROJECT_CONFIG`",
            "its shell runs without walls: the effects of an allowed command are not seen, and its edits cannot be undone",
            "results of its own search and listing are not checked against the grants file by file",
        ),
        "replace": (
            "agents with their own permissions, and settings in the environment (`OPENCODE_PERMISSION`), open its tools again",
        ),
    },
    not_read_in="a git repository inside of the project",
    probe={
        "name": "before",
        "tool": PROBE,
        "sessionID": "interlock-doctor",
        "callID": "probe",
        "directory": "/",
    },
    trial=opencode_trial.trial,
    trial_files=opencode_trial.FILES,
    trial_home_files=opencode_trial.HOME_FILES,
    server_files=("opencode.json", "opencode.jsonc", ".opencode/opencode.json", ".opencode/opencode.jsonc"),
)
