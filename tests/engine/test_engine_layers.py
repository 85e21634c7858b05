"""A proposal in a layer: one view for tools and processes, no trace of an abort, all or nothing committed, exact undo."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

import pytest
from engine_world import TOML, beside, binding, call, execute, plan, read, reasons, statuses, write

from interlock.journal import read as read_journal
from interlock.model.errors import UsageError
from interlock.model.tool import Binding, Tool
from interlock.workspace.layer_mounts import LayerMounts, UnmountableError

LAYER = '[workspace]\nmode = "layer"\n'


@pytest.fixture
def project(new_project):
    made = new_project(toml=TOML % "" + LAYER)
    (made.root / "a").write_text("original\n")
    (made.root / "dir").mkdir()
    (made.root / "dir" / "x").write_text("x\n")
    return made


@pytest.fixture
def root(project):
    return project.root


@pytest.fixture
def rt(project):
    return project.open()


def fs_write(path="a", content="agent\n", name="write", **fields):
    return call("fs.write", name, parameters={"path": path, "content": content}, **fields)


def shell(command, name="shell", **fields):
    return call("shell", name, parameters={"command": command}, **fields)


FAIL = shell("exit 3", "fail")


def tree(root):
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(root.rglob("*"))
    }


def events(project, run_id, *kinds):
    found = read_journal(project.home / "runs" / run_id)
    return [event for event in found if type(event).__struct_config__.tag in kinds]


def undo(rt, run_id, **more):
    return asyncio.run(rt.runs.undo(run_id, **more))


def layers(project, run_id):
    parent = project.home / "runs" / run_id / "workspace"
    return sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []


def test_tools_and_processes_see_one_view_and_success_commits_it(rt, root, project):
    result = execute(
        rt,
        fs_write("new", "tool\n"),
        shell(f"cat new > seen; echo process >> {root}/new; pwd > where; rm -r dir; chmod 700 a"),
        call("fs.read", "read", parameters={"path": "new"}),
    )
    assert result.ok, result.results
    assert result["read"].output["content"] == "tool\nprocess\n"
    assert (root / "new").read_text() == "tool\nprocess\n"
    assert (root / "seen").read_text() == "tool\n"
    assert (root / "where").read_text().strip() == str(root)
    assert not (root / "dir").exists()
    assert (root / "a").stat().st_mode & 0o777 == 0o700
    assert result.workspace.status == "committed"
    assert result["shell"].posture["layer"] == "active(overlay)"
    kinds = [
        type(e).__struct_config__.tag
        for e in events(project, result.run_id, "layer_opened", "layer_commit_intent", "layer_committed")
    ]
    assert kinds == ["layer_opened", "layer_commit_intent", "layer_committed"]
    assert layers(project, result.run_id) == []


def test_nothing_is_in_the_workspace_before_the_proposal_has_succeeded(project, root):
    seen = []

    async def look(parameters, ctx):
        seen.append((root / "a").read_text())

    rt = project.open(
        binding("look", look, read_only=True),
    )
    rt.services.registry.find("look").touches_files = False
    assert execute(rt, fs_write(), call("look"), shell("echo more >> a")).ok
    assert seen == ["original\n"]
    assert (root / "a").read_text() == "agent\nmore\n"


def test_what_only_looked_in_a_layer_is_not_said_to_be_rolled_back(rt):
    look = call("fs.list", "look", parameters={})
    result = execute(rt, fs_write(), look, FAIL)
    assert statuses(result) == ["rolled_back", "succeeded", "failed"]
    (shown,) = rt.runs.results(result.run_id)
    assert [row.status for row in shown.results] == [row.status for row in result.results]


def test_an_abort_leaves_no_trace_of_files_or_shell_commands(rt, root, project):
    before = tree(root)
    result = execute(
        rt,
        fs_write(),
        shell(
            f"rm -r dir; mkdir made; echo 1 > {root}/made/f; echo 2 > a; chmod 600 interlock.toml || true; mkdir no; chmod 000 no"
        ),
        FAIL,
    )
    assert result.status == "failed"
    assert tree(root) == before
    assert result["write"].status == "rolled_back"
    assert result.workspace.status == "discarded"
    assert layers(project, result.run_id) == []
    assert [e.why for e in events(project, result.run_id, "layer_discarded")] == ["aborted"]


def test_undo_after_a_commit_is_exact_and_can_be_undone(rt, root):
    before = tree(root)
    result = execute(rt, fs_write(), shell("rm -r dir; mkdir -p m/n; echo 1 > m/n/f; ln -s a l; chmod 640 a"))
    after = tree(root)
    assert result.ok, result.results
    back = undo(rt, result.run_id)
    assert tree(root) == before, back.results
    again = undo(rt, back.run_id)
    assert tree(root) == after, again.results


def test_one_action_is_undone_by_itself_even_a_process(rt, root):
    result = execute(rt, shell("echo one > a; echo 1 > f1", "one"), shell("echo two > a; echo 2 > f2", "two"))
    assert result.ok, result.results
    undo(rt, result.run_id, action_id="two")
    assert (root / "a").read_text() == "one\n"
    assert not (root / "f2").exists()
    undo(rt, result.run_id, action_id="one")
    assert (root / "a").read_text() == "original\n"
    assert not (root / "f1").exists()


def test_undo_refuses_what_was_edited_after_the_commit(rt, root):
    result = execute(rt, shell("echo agent > a"))
    (root / "a").write_text("person\n")
    back = undo(rt, result.run_id)
    assert reasons(back) == ["undo_conflict"]
    assert (root / "a").read_text() == "person\n"


def test_an_edit_of_somebody_else_meanwhile_is_a_conflict_and_nothing_is_committed(rt, root, project):
    rt.register(editor(root))
    result = execute(rt, shell("echo agent > a; echo agent > other"), call("edit", dependencies=["shell"]))
    assert result.status == "failed"
    assert result.workspace.status == "kept"
    assert result.workspace.blocked == {"a": "conflict"}
    assert (root / "a").read_text() == "person\n"
    assert not (root / "other").exists()
    assert layers(project, result.run_id) == ["1"]


def editor(root):
    """Somebody who edits the file itself, not in the layer: as a tool, so that it happens while the proposal runs."""

    async def edit(parameters, ctx):
        (root / "a").write_text("person\n")

    return beside("edit", edit)


def test_a_process_that_leaves_its_grant_fails_the_action(new_project):
    toml = TOML % "" + LAYER + '[grants.coder.paths]\nread = ["**"]\nwrite = ["src/**"]\n'
    project = new_project(toml=toml)
    (project.root / "src").mkdir()
    rt = project.open()
    assert execute(rt, shell("echo fine > src/f")).ok
    result = execute(rt, shell("echo more > src/g; echo outside > README"))
    assert reasons(result) == ["path_denied"]
    assert not (project.root / "README").exists()
    assert not (project.root / "src" / "g").exists()
    skipped = execute(
        rt, shell("echo more > src/g; echo outside > README", failure_behavior="skip"), shell("echo 3 > src/h", "after")
    )
    assert statuses(skipped) == ["failed", "succeeded"]
    assert skipped.workspace.blocked == {"README": "denied"}
    assert (project.root / "src" / "h").exists()
    assert not (project.root / "README").exists()


def test_what_the_loader_reads_cannot_be_changed_by_a_process(rt, root):
    before = (root / "interlock.toml").read_text()
    result = execute(rt, shell("echo 'agent = \"x\"' > interlock.toml; mkdir policy; echo x > policy/p.cedar"))
    assert reasons(result) == ["path_protected"]
    assert (root / "interlock.toml").read_text() == before
    assert not (root / "policy").exists()


def test_a_directory_above_what_a_client_reads_may_be_made_and_removed(rt, root):
    """Clients read `.github/hooks` and `.vscode/mcp.json`; what is beside them is the agent's."""
    (root / ".vscode").mkdir()
    (root / ".vscode" / "notes").write_text("x")
    before = tree(root)
    made = "mkdir -p .github/workflows; echo x > .github/notes; echo y > .github/workflows/ci.yml; rm -r .vscode"
    result = execute(rt, shell(made), call("fs.write", "write", parameters={"path": ".github/more", "content": "z"}))
    assert result.ok, result.results
    assert set(result.workspace.blocked.values()) == {"runs_later"}
    asyncio.run(rt.runs.commit(result.run_id, [".github"]))
    assert sorted(os.listdir(root / ".github")) == ["more", "notes", "workflows"]
    assert not (root / ".vscode").exists()
    undo(rt, result.run_id)
    assert tree(root) == before
    for command in ("mkdir -p .github/hooks", "mkdir .vscode; echo x > .vscode/mcp.json", "ln -s dir .github"):
        assert reasons(execute(rt, shell(command))) == ["path_protected"], command


def test_files_that_run_later_stay_in_the_layer(rt, root, project):
    result = execute(rt, shell("echo 'evil' > .envrc; echo code > code.py"))
    assert result.ok
    assert result.workspace.status == "kept"
    assert result.workspace.blocked == {".envrc": "runs_later"}
    assert (root / "code.py").exists()
    assert not (root / ".envrc").exists()
    assert layers(project, result.run_id) == ["1"]


def test_a_file_that_is_written_again_as_it_is_holds_nothing_up(rt, root):
    (root / ".envrc").write_text("mine\n")
    result = execute(rt, shell("for file in .envrc interlock.toml; do cp $file copy; cat copy > $file; done; rm copy"))
    assert result.ok
    assert (result.workspace.status, result.workspace.blocked) == ("committed", {})


@pytest.mark.parametrize("how", ["ask", "never"])
def test_a_kept_layer_is_the_lower_of_the_next_one_in_that_run(new_project, how):
    project = new_project(toml=TOML % "" + LAYER + f'commit = "{how}"\n')
    (project.root / "a").write_text("original\n")
    rt = project.open()

    async def both():
        run = rt.runs.start()
        first = await run.execute(plan(shell("echo first > a")))
        second = await run.execute(plan(shell("cat a > b", "two")))
        third = await run.execute(plan(call("fs.read", "read", parameters={"path": "b"})))
        run.finish()
        return first, second, third

    first, second, third = asyncio.run(both())
    assert (first.workspace.status, second.workspace.status) == ("kept", "kept")
    assert third["read"].output["content"] == "first\n"
    assert (project.root / "a").read_text() == "original\n"
    assert not (project.root / "b").exists()


@pytest.mark.parametrize("how", ["ask", "never"])
def test_a_person_undoes_what_they_committed_where_layers_wait_and_an_agent_does_not(new_project, how):
    project = new_project(toml=TOML % "" + LAYER + f'commit = "{how}"\n')
    rt = project.open()
    run_id = execute(rt, fs_write()).run_id
    asyncio.run(rt.runs.commit(run_id))
    assert (project.root / "a").exists()
    refused = execute(rt, call("undo", "undo", parameters={"run": run_id}))
    assert (refused["undo"].status, refused["undo"].reason) == ("rejected", "layer_unavailable")
    assert asyncio.run(rt.runs.undo(run_id)).ok
    assert not (project.root / "a").exists()


def test_the_layer_of_a_run_that_a_person_stops_is_kept_and_reaches_the_workspace_only_when_told(rt, root, project):
    begun = asyncio.Event()

    async def slow(parameters, ctx):
        begun.set()
        await asyncio.Event().wait()

    rt.register(Binding(tool=Tool(name="slow", read_only=True), function=slow, mode="async", writes="nothing"))

    async def both():
        task = asyncio.create_task(rt.execute(plan(fs_write(), call("slow"))))
        await begun.wait()
        await rt.runs.stop()
        return await task

    result = asyncio.run(both())
    assert (result.status, result.workspace.status) == ("cancelled", "kept")
    assert (root / "a").read_text() == "original\n"
    [event] = events(project, result.run_id, "layer_kept")
    assert event.why == "stopped"


def test_what_was_read_in_a_layer_is_not_cached_for_others_and_a_commit_makes_all_read_again(new_project):
    project = new_project(toml=TOML % "" + LAYER + '[tools."fs.read"]\ncache_ttl = "1h"\n')
    (project.root / "a").write_text("original\n")
    rt = project.open()
    look = call("fs.read", "read", parameters={"path": "a"})
    assert execute(rt, look)["read"].output["content"] == "original\n"
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def pause(parameters, ctx):
        begun.set()
        await go_on.wait()

    rt.register(Binding(tool=Tool(name="pause", read_only=True), function=pause, mode="async", writes="nothing"))

    async def both():
        writing = asyncio.create_task(rt.execute(plan(fs_write(), look, call("pause", dependencies=["read"]))))
        await begun.wait()
        beside = await rt.execute(plan(look))
        go_on.set()
        return await writing, beside, await rt.execute(plan(look))

    contents = [result["read"].output["content"] for result in asyncio.run(both())]
    assert contents == ["agent\n", "original\n", "agent\n"]


def test_a_state_conflict_leaves_no_file_behind(rt, root, project):
    other = project.open()
    assert execute(other, write("k", 1)).ok

    async def outside(parameters, ctx):
        assert (await other.execute(plan(write("k", 2)))).ok

    rt.register(beside("outside", outside))
    result = execute(
        rt, read("k", "r"), shell("echo agent > a"), call("outside", "o", dependencies=["r", "shell"]),
        write("k", 5, "w", dependencies=["o"]),
    )  # fmt: skip
    assert result.status == "failed"
    assert result.workspace.status == "discarded"
    assert (root / "a").read_text() == "original\n"


def test_a_proposal_with_a_tool_that_works_on_the_files_themselves_has_no_layer_and_says_so(project, root):
    def own(parameters, ctx):
        (root / "own").write_text("x")

    rt = project.open(binding("own", own, "thread"))
    result = execute(rt, fs_write(), call("own"))
    assert result.ok, result.results
    assert result.workspace is None
    (opened,) = events(project, result.run_id, "layer_opened")
    assert opened.absent
    assert "`own`" in opened.how


def test_ten_proposals_work_side_by_side_and_all_are_committed(project, root):
    rt = project.open()

    async def all_of_them():
        return await asyncio.gather(
            *(rt.execute(plan(shell(f"echo {n} > f{n}; sleep 0.2; ls f* | wc -l > seen{n}"))) for n in range(10))
        )

    results = asyncio.run(all_of_them())
    assert all(result.ok for result in results), [result.results for result in results]
    assert sorted((root / f"f{n}").read_text().strip() for n in range(10)) == [str(n) for n in range(10)]


def test_open_questions_and_long_builds_keep_nobody_from_committing(new_project):
    asking = (TOML % "").replace('allow = ["*"', 'ask = ["fs.delete"]\nallow = ["shell", "fs.write", "fs.read"')
    toml = asking + LAYER + '[isolation]\nprofile = "none"\n'  # a file beside the workspace tells the builds to end
    project = new_project(toml=toml, files=[("old", "old\n")])
    rt, go = project.open(), project.state.parent / "go"
    asked = asyncio.Event()
    holds = []

    async def question(hold):
        holds.append(hold)
        asked.set()

    async def all_of_them():
        delete = call("fs.delete", "ask", parameters={"path": "old"})
        waits = asyncio.ensure_future(
            rt.execute(plan(fs_write("asked"), delete, fs_write("later", name="later")), on_question=question)
        )
        build = f"echo built > built; while [ ! -e {go} ]; do sleep 0.01; done"
        builds = [asyncio.ensure_future(rt.execute(plan(shell(build.replace("built", f"built{n}"))))) for n in range(3)]
        await asked.wait()
        for number in range(3):
            assert (await rt.execute(plan(fs_write(f"quick{number}"), shell(f"echo 1 > by_shell{number}")))).ok
        assert sorted(path.name for path in root.iterdir() if path.name.startswith(("quick", "by", "built", "asked"))) == [
            *(f"by_shell{n}" for n in range(3)), *(f"quick{n}" for n in range(3))
        ]  # fmt: skip
        assert not waits.done()
        go.touch()
        assert all(one.ok for one in await asyncio.gather(*builds))
        await asyncio.to_thread(rt.approvals.approve, holds[0].id)
        return await waits

    root = project.root
    result = asyncio.run(all_of_them())
    assert result.ok, result.results
    assert {(root / name).exists() for name in ("asked", "later", "built0", "built2")} == {True}
    assert not (root / "old").exists()


def test_a_copy_serves_where_overlayfs_is_refused(rt, root, project, monkeypatch):
    def refuse(*_, **__):
        raise UnmountableError("overlayfs refuses")

    monkeypatch.setattr(LayerMounts, "mount_overlay", refuse)
    before = tree(root)
    command = f"echo 1 > f; cat {root}/a; echo 2 > {root}/g; pwd"
    done = execute(rt, fs_write(), call("shell", "sh", parameters={"command": command, "cwd": "dir"}))
    assert done.ok, done.results
    assert done["sh"].output["stdout"] == f"agent\n{root}/dir\n"
    assert done["sh"].posture["layer"] == "active(copy(overlayfs refuses))"
    assert (root / "dir" / "f").exists()
    assert (root / "g").exists()
    assert not execute(rt, shell("rm -r dir a"), FAIL).ok
    assert (root / "a").exists()
    undo(rt, done.run_id)
    assert tree(root) == before


def test_a_socket_in_the_workspace_is_not_reached_from_a_layer(new_project):
    """What a program of the machine listens on stays there: the socket file that the layer shows is another one."""
    project = new_project(toml=TOML % "" + LAYER + '[isolation]\nprofile = "ns"\n')
    path = os.fspath(project.root / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        connect = "import socket; socket.socket(socket.AF_UNIX).connect('s')"
        row = execute(project.open(), shell(f'test -S s && exec {sys.executable} -I -c "{connect}"')).results[0]
    assert row.posture["layer"].startswith("active"), row
    assert "ConnectionRefusedError" in row.output["stderr"], row


@pytest.mark.parametrize("made", ["overlay", "copy"])
@pytest.mark.parametrize("profile", ["ns", "nons", "none"])
def test_the_view_is_one_behind_every_wall_and_an_abort_leaves_nothing(new_project, monkeypatch, profile, made):
    project = new_project(toml=TOML % "" + LAYER + f'[isolation]\nprofile = "{profile}"\n')
    (project.root / "a").write_text("original\n")

    def refuse(*_, **__):
        raise UnmountableError("overlayfs refuses")

    if made == "copy":
        monkeypatch.setattr(LayerMounts, "mount_overlay", refuse)
    rt = project.open()
    (project.root / "sub").mkdir()
    done = execute(
        rt,
        fs_write(),
        call("shell", "sh", parameters={"command": f"cat ../a {project.root}/a; echo 3 > ../n; pwd", "cwd": "sub"}),
        call("fs.read", "read", parameters={"path": "n"}),
    )
    assert done.ok, done.results
    how = "overlay" if made == "overlay" else "copy(overlayfs refuses)"
    assert done["sh"].posture["layer"] == f"active({how})"
    assert done["sh"].output["stdout"] == f"agent\nagent\n{project.root}/sub\n"
    assert done["read"].output["content"] == "3\n"
    before = tree(project.root)
    aborted = execute(rt, shell("rm a n; echo 4 > z"), FAIL)
    assert tree(project.root) == before
    confined = all(aborted["shell"].posture[wall].startswith("active") for wall in ("fs", "net"))
    assert [one.action_id for one in aborted.not_undone] == ([] if confined else ["shell", "fail"])


def test_a_process_works_in_any_directory_of_the_layer(rt, root):
    command = f"pwd; cat ../new; ls {root}/made"
    result = execute(
        rt,
        fs_write("new", "n\n"),
        shell("mkdir made; touch made/here", "make"),
        call("shell", "sh", parameters={"command": command, "cwd": "made"}),
    )
    assert result.ok, result.results
    assert result["sh"].output["stdout"] == f"{root}/made\nn\nhere\n"


def test_git_tools_work_in_a_layer_and_are_undone_by_their_compensation(rt, root):
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    for key, value in (("user.name", "n"), ("user.email", "e@example.org")):
        subprocess.run(["git", "config", key, value], cwd=root, check=True)
    result = execute(
        rt,
        fs_write("code.py", "x = 1\n"),
        call("git.add", "add", parameters={"paths": ["code.py"]}),
        call("git.commit", "commit", parameters={"message": "one"}),
    )
    assert result.ok, result.results
    log = subprocess.run(["git", "log", "--format=%s"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert log == "one\n"
    subprocess.run(["git", "fsck", "--strict"], cwd=root, check=True)


def test_a_run_that_was_killed_is_resumed_in_its_layer(project, root):
    child = project.script(
        """
        async def die(parameters, ctx):
            os.kill(os.getpid(), 9)

        rt = project.open(beside("die", die))
        execute(
            rt,
            call("fs.write", "write", parameters={"path": "a", "content": "agent"}),
            call("shell", "shell", parameters={"command": "echo 1 > shell"}),
            call("die", "die", dependencies=["shell"]),
        )
        """
    )
    _, errors = child.communicate(timeout=30)
    assert child.returncode == -9, errors
    assert (root / "a").read_text() == "original\n"
    rt = project.open()
    (unfinished,) = rt.runs.recover()
    assert unfinished.need == "settle"
    (result,) = asyncio.run(rt.runs.resume(unfinished.run_id, {"die": "succeeded"}))
    assert result.ok, result.results
    assert (root / "a").read_text() == "agent"
    assert (root / "shell").read_text() == "1\n"
    assert layers(project, result.run_id) == []


KILLED = """
    from interlock.engine.completion.layers import room as layers
    from interlock.disk import Disk
    left = int(sys.argv[1])
    armed = False

    def counted(what, call, *arguments, real=Disk._do):
        global left
        left -= armed
        if left == 0:
            os.kill(os.getpid(), 9)
        return real(what, call, *arguments)

    def commit(*arguments, real=layers.commit_layer, **options):
        global armed
        armed = True
        Disk._do = staticmethod(counted)
        return real(*arguments, **options)

    layers.commit_layer = commit
    rt = project.open()
    command = "rm -r dir; mkdir -p m/n; echo 1 > m/n/f; ln -s a l; echo p > p; echo kind > kind/now; chmod 700 kind"
    result = execute(
        rt,
        call("fs.write", "write", parameters={"path": "a", "content": "agent"}),
        call("shell", "sh", parameters={"command": command}),
        write("k", 1, "state"),
    )
    print(result.status)
"""


@pytest.mark.timeout(280)
def test_a_commit_that_is_killed_at_any_operation_is_done_again_by_resume_and_undone_exactly(new_project):
    done = False
    for operation in range(1, 200, 12):
        project = new_project(toml=TOML % "" + LAYER)
        root = project.root
        (root / "a").write_text("original\n")
        (root / "dir").mkdir()
        (root / "dir" / "x").write_text("x\n")
        (root / "kind").mkdir()
        before = tree(root)
        child = project.script(KILLED, operation)
        said, errors = child.communicate(timeout=60)
        rt = project.open()
        run_id = project.runs()[0]
        if child.returncode == 0:
            assert said == "succeeded\n"
            done = True
        else:
            assert child.returncode == -9, errors
            with contextlib.suppress(UsageError):  # `run_finished`: it had only to tidy up
                for result in asyncio.run(rt.runs.resume(run_id)):
                    assert result.ok, (operation, result)
        assert (root / "m" / "n" / "f").read_text() == "1\n", operation
        assert (root / "a").read_text() == "agent", operation
        assert not (root / "dir").exists(), operation
        assert not list(root.rglob("*.tmp")), operation
        assert rt.services.store.snapshot()["k"].value == 1
        back = undo(rt, run_id)
        assert tree(root) == before, (operation, back.results)
        rt.close()
        if done:
            return
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("mode", ["layer", "direct"])
@pytest.mark.parametrize("action", [fs_write(), shell("echo agent > a")], ids=["tool", "process"])
def test_nothing_is_changed_once_another_directory_is_at_the_workspaces_path(new_project, tmp_path, mode, action):
    """File tools would work in the directory that was moved, and processes in the new one."""
    project = new_project(toml=f'{TOML % ""}[workspace]\nmode = "{mode}"\n')
    (project.root / "a").write_text("original\n")
    rt = project.open()
    project.root.rename(tmp_path / "moved")
    assert reasons(execute(rt, action)) == ["workspace_missing"]
    project.root.mkdir()
    (project.root / "a").write_text("new\n")
    assert reasons(execute(rt, action)) == ["workspace_missing"]
    assert (tmp_path / "moved" / "a").read_text() == "original\n"
    assert (project.root / "a").read_text() == "new\n"
    (project.root / "a").unlink()
    project.root.rmdir()
    (tmp_path / "moved").rename(project.root)
    assert execute(rt, action).ok


def test_nothing_is_committed_to_a_workspace_that_was_moved_meanwhile(project, rt, root, tmp_path):
    async def both():
        task = asyncio.create_task(rt.execute(plan(shell("echo agent > a; sleep 2"))))
        await asyncio.sleep(1)
        root.rename(tmp_path / "moved")
        root.mkdir()
        return await task

    result = asyncio.run(both())
    assert reasons(result) == ["workspace_conflict"]
    assert (tmp_path / "moved" / "a").read_text() == "original\n"
    assert not (root / "a").exists()
