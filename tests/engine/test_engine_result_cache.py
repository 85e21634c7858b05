"""`cache_ttl`: a result stands for the same call, in every process, until something may have changed what it was read from."""

import asyncio
import threading

import pytest
from engine_world import TOML, binding, call, execute, plan

from interlock.disk import Database
from interlock.model.errors import ConfigurationError

CACHED = TOML % "" + '[tools."fs.read"]\ncache_ttl = "1h"\n[tools.look]\ncache_ttl = "1h"\n'
READ = call("fs.read", "r", parameters={"path": "f"})


def content(result):
    return result["r"].output["content"], result["r"].deduplicated_from


@pytest.fixture
def project(new_project):
    return new_project(toml=CACHED, files=[("f", "one")])


def put(text):
    return call("fs.write", parameters={"path": "f", "content": text})


def test_a_built_in_tool_is_cached_and_shared_by_processes(project):
    assert content(execute(project.open(), READ)) == ("one", None)
    script = project.script(
        "print(execute(project.open(), call('fs.read', 'r', parameters={'path': 'f'}))['r'].deduplicated_from)"
    )
    assert script.communicate(timeout=25) == ("cache\n", "")


def test_a_write_of_any_tool_in_any_process_makes_it_read_again(project):
    rt = project.open()
    execute(rt, READ)
    execute(rt, put("two"))
    assert content(execute(rt, READ)) == ("two", None)
    shell = "execute(project.open(), call('shell', parameters={'command': 'echo -n three > f'}))"
    assert project.script(shell).communicate(timeout=25) == ("", "")
    assert content(execute(rt, READ)) == ("three", None)


def test_a_rollback_makes_it_read_again(project):
    async def fails(parameters, ctx):
        raise RuntimeError

    rt = project.open(binding("fails", fails))
    result = execute(rt, put("two"), call("fs.read", "r", parameters={"path": "f"}), call("fails", max_retries=0))
    assert result["r"].output["content"] == "two"
    assert content(execute(rt, READ)) == ("one", None)


def test_what_was_read_before_a_write_is_not_stored_after_it(project):
    """The read begins, another call writes, the read ends: its result is out of date."""
    begun, go_on = threading.Event(), threading.Event()
    calls = []

    def look(parameters, ctx):
        calls.append(1)
        begun.set()
        go_on.wait(25)
        return "old"

    rt = project.open(binding("look", look, "thread", read_only=True))

    async def both():
        reading = asyncio.create_task(rt.execute(plan(call("look"))))
        await asyncio.to_thread(begun.wait, 25)
        await rt.execute(plan(put("two")))
        go_on.set()
        await reading
        await rt.execute(plan(call("look")))

    asyncio.run(both())
    assert len(calls) == 2


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_out_of_date(project, tmp_path):
    mark = tmp_path / "mark"
    rt = project.open()
    process = project.script(
        """
        import os, signal
        from pathlib import Path
        rt = project.open()
        def writes(parameters, ctx):
            Path(sys.argv[1]).touch()
            while not Path(sys.argv[1] + "2").exists():
                pass
            (project.root / "f").write_text("two")
            os.kill(os.getpid(), signal.SIGKILL)
        rt.register(binding("writes", writes, "thread"))
        execute(rt, call("writes"))
        """,
        mark,
    )
    while not mark.exists():
        assert process.poll() is None, process.communicate()
    assert content(execute(rt, READ)) == ("one", None), "the write has not happened yet"
    mark.with_name("mark2").touch()
    process.communicate(timeout=25)
    rt.runs.recover()
    assert content(execute(rt, READ)) == ("two", None)


def test_what_holds_a_secret_is_not_stored_and_the_key_does_not_show_parameters(project):
    (project.root / "f").write_text("token = ghp_16C7e42F292c6912E7710c838347Ae178B4a")
    rt = project.open()
    assert content(execute(rt, READ)) == content(execute(rt, READ))
    with_secret = Database(project.home / "interlock.db").execute("select key from result_cache")
    (project.root / "f").write_text("nothing")
    execute(rt, READ)
    [(key,)] = Database(project.home / "interlock.db").execute("select key from result_cache")
    assert (with_secret, key.startswith("hmac-")) == ([], True)


def test_a_tool_that_changes_something_cannot_be_cached(new_project):
    with pytest.raises(ConfigurationError) as caught:
        new_project(toml=TOML % '[tools."fs.write"]\ncache_ttl = "1h"\n').open()
    assert (caught.value.code, caught.value.path) == ("not_cacheable", "tools.fs.write.cache_ttl")
