"""An agent that wants to wear the machine out, or to give itself more than the configuration does."""

import time

from engine_world import call, execute, read, reasons, write

TOML = """
agent = "coder"

[rules]
allow = ["fs.*", "shell", "proc.*", "state_write", "state_read"]

[grants.coder]
tools = ["fs.*", "shell", "proc.*"]

[tools]
modules = ["own_tools"]

[tools."shell"]
timeout = "300ms"
"""
MODULE = """
import interlock


@interlock.tool(read_only=True)
def hello() -> str:
    return "hello"
"""


def test_no_agent_gives_itself_more_time_than_the_tool_has(victim):
    rt = victim(TOML, {"own_tools.py": MODULE}).open()
    before = time.monotonic()
    assert reasons(execute(rt, call("shell", parameters={"command": "sleep 25"}, timeout_ms=60_000))) == ["timeout"]
    assert time.monotonic() - before < 20


def test_references_do_not_multiply_into_gigabytes(victim):
    project = victim(TOML, {"own_tools.py": MODULE, "big": "A" * 1_000_000})
    many = write("k", ["$a.output.content"] * 50_000)
    result = execute(project.open(), call("fs.read", "a", parameters={"path": "big"}), many)
    assert result.results[1].reason == "reference_failed"


def test_references_do_not_add_up_to_a_depth_that_nothing_can_walk(victim):
    actions = [write("k0", 1, "w0"), read("k0", "r0")]
    for i in range(1, 40):
        value = f"$r{i - 1}.output"
        for _ in range(55):
            value = {"x": value}
        actions += [write(f"k{i}", value, f"w{i}"), read(f"k{i}", f"r{i}")]
    result = execute(victim(TOML, {"own_tools.py": MODULE}).open(), *actions)
    assert next(row.reason for row in result.results if row.status == "rejected") == "reference_failed"


def test_interlocks_own_servers_are_not_killed_by_a_tool(victim):
    rt = victim(TOML, {"own_tools.py": MODULE}).open()
    execute(rt, call("shell", parameters={"command": "true"}))
    servers = [server.pid for server in rt.services.servers if server.pid]
    assert len(servers) == 2
    listed = execute(rt, call("proc.list", parameters={})).results[0].output["processes"]
    for process in listed:
        if process["pid"] in servers:
            target = {"pid": process["pid"], "start_time": process["start_time"], "signal": "SIGKILL"}
            assert reasons(execute(rt, call("proc.kill", parameters=target))) == ["process_protected"]


def test_an_agent_spends_its_own_budget_and_no_others(victim):
    toml = TOML.replace("[tools]", '[grants.intern]\ntools = ["fs.*"]\n\n[budget.agent]\nactions = 2\n\n[tools]')
    rt = victim(toml, {"own_tools.py": MODULE, "a": "x"}).open()
    look = call("fs.read", parameters={"path": "a"})
    assert reasons(execute(rt, look, look, look, agent="intern")) == [None, None, "budget_exceeded"]
    assert reasons(execute(rt, look, session="another", agent="intern")) == ["budget_exceeded"]
    assert reasons(execute(rt, look, look, look)) == [None, None, "budget_exceeded"]
