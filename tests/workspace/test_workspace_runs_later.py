"""What a commit holds since another program executes or obeys it later, and what git stores, which is committed as a whole."""

import contextlib
import os
import struct
import subprocess
import threading
import tracemalloc
import zlib
from random import Random

import pytest
from layer_world import World, inside

from interlock.workspace import layer_commit
from interlock.workspace.git_directories import GitDirectories
from interlock.workspace.git_objects import Objects, UnreadableError, read_index
from interlock.workspace.layer_commit import plan_commit
from interlock.workspace.layer_diff import Difference
from interlock.workspace.layer_mounts import LayerMounts
from interlock.workspace.names import Rel
from interlock.workspace.nodes import ABSENT, Node
from interlock.workspace.runs_later import may_run_later, runs_later

MARK = '\\n fsmonitor = \\"touch $PWD/../ran; false\\"\\n'
GIT = ["git", "-c", "user.name=p", "-c", "user.email=p@example.org"]
AGENT = 'export HOME=/nonexistent; g() { git -c user.name=a -c user.email=a@example.org "$@"; };'


@pytest.fixture
def world(tmp_path):
    with contextlib.closing(LayerMounts()) as mounts, contextlib.closing(World(tmp_path, mounts)) as made:
        yield made


@pytest.fixture
def repository(world):
    """The workspace is a repository with one commit."""
    (world.root / "a").write_text("one\n")
    git(world, "init", "-q", "-b", "main")
    git(world, "add", "a")
    git(world, "commit", "-qm", "first")
    return world


def git(world, *arguments, check=True, cwd=None):
    done = subprocess.run(
        [*GIT, *arguments], cwd=cwd or world.root, check=check, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"},
    )  # fmt: skip
    return done.stdout


def rel(path: str) -> Rel:
    return tuple(path.encode().split(b"/"))


def put(path, kind="file"):
    return Difference(rel(path), ABSENT, Node(kind))


def is_held(world, path, kind="file"):
    one = put(path, kind)
    return runs_later(one, GitDirectories([one], world.base, world.base))


def blocked(plan, why):
    return {one.path for one in plan.blocked if one.why == why}


@pytest.mark.parametrize(
    "path",
    [
        ".GIT/Hooks/x", "a/.git/modules/m/config", "bare.git/hooks/post-receive", ".git/info/attributes", ".git/commondir",
        ".git", "sub/.git", ".git/worktrees/w/commondir", ".git/worktrees/w/gitdir", ".git/modules/m/commondir",
        ".git/config.worktree", ".git/objects/info/alternates", ".git/objects/info/http-alternates", ".git/info/grafts",
        ".git/rebase-merge/git-rebase-todo", ".git/sequencer/todo", ".git/remotes/origin", ".git/something-new",
        ".git/modules/objects/config", ".git/modules/refs/hooks/x", ".git/index.lock", ".vscode/tasks.json", "x.code-workspace",
        ".cargo/config.toml", ".yarn/releases/yarn.cjs", ".direnv/flake.rc", ".hg/hgrc", ".jj/repo", "sub/.ghci",
        "packages/a/.claude/skills/a/SKILL.md", "sub/.agents/skills/a/SKILL.md", "sub/.cursor/agents/a.md", "sub/.copilot/x",
        ".lefthook/pre-commit/x.sh", ".builds/ci.yml", ".clinerules/hooks/PreToolUse", "sub/hie.yaml", ".repo/repo/main.py",
        ".sl/config", ".emacs.desktop",
        ".github/hooks/x.sample", "hooks/pre-commit", "git-hooks/post-checkout", "templates/Hooks/Pre-Push",
    ],
)  # fmt: skip
def test_a_file_that_runs_later_is_known_by_any_spelling(world, path):
    assert is_held(world, path)


@pytest.mark.parametrize(
    "path",
    [
        ".git/objects/ab/cd", ".git/objects/pack/pack-1.idx", ".git/objects/info/commit-graph", ".git/index", ".git/HEAD",
        ".git/refs/heads/main", ".git/logs/HEAD", ".git/packed-refs", ".git/ORIG_HEAD", ".git/FETCH_HEAD", ".git/COMMIT_EDITMSG",
        ".git/MERGE_HEAD", ".git/lfs/objects/ab/cd", ".git/hooks/pre-commit.sample", ".git/info/exclude", "src/config",
        ".agents/notes.md", "AGENTS.md",
        "hooks.py", "HEAD", "commondir", ".cargo/registry/x", "Makefile", "package.json", ".venv/bin/activate",
        "node_modules/.bin/tsc", "conftest.py", ".gitattributes", "src/hooks/useState.ts", "hooks/use-cart.js", "hooks/x.sample",
        ".clinerules/style.md", ".repo/manifest.xml",
    ],
)  # fmt: skip
def test_other_files_do_not(world, path):
    assert not is_held(world, path)


@pytest.mark.parametrize(
    "path", [".git/HEAD", ".git/index", ".git/logs/HEAD", ".git/refs", ".cargo", ".vscode", ".git"]
)
def test_a_link_in_the_place_of_what_git_or_a_tool_uses_is_held(world, path):
    assert is_held(world, path, "symlink")


@pytest.mark.parametrize(
    "named", ["tools/run", '"tools/run"', "./tools//run/ ; ours", "{root}/tools/run", "/{root}/x/../tools/run"]
)
def test_the_directory_that_a_repository_has_its_hooks_in_is_held(repository, named):
    with open(repository.root / ".git" / "config", "a", encoding="utf-8") as file:
        file.write(f"[CORE]\n\tHooksPath = {named.format(root=repository.root)}\n")
    assert is_held(repository, "tools/run/pre-commit")
    assert is_held(repository, "tools/run/lib/checks.sh")
    assert not is_held(repository, "tools/other")


@pytest.mark.parametrize("before", [0, 8_100, 8_192, 300_000])
def test_a_long_configuration_is_read_to_its_end(repository, before):
    with open(repository.root / ".git" / "config", "a", encoding="utf-8") as file:
        file.write("#" * before + "\n[core]\n\thooksPath = tools\n")
    assert is_held(repository, "tools/pre-commit")


def test_hooks_that_the_layer_itself_configures_are_held_with_the_configuration(repository):
    with repository.layer() as layer:
        inside(layer, "git config core.hooksPath tools; mkdir tools; echo exit > tools/pre-commit; echo 1 > other")
        plan = repository.commit(layer)
    assert blocked(plan, "runs_later") == {".git/config", "tools/pre-commit"}


def test_the_users_own_configuration_names_hooks_too(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / ".gitconfig").write_text("[core]\n  hooksPath = scripts\n")
    assert is_held(repository, "scripts/pre-commit")
    assert not is_held(repository, "script/pre-commit")


@pytest.mark.parametrize("condition", ["include", 'includeIf "onbranch:x"', 'INCLUDEIF "gitdir:/elsewhere/"'])
@pytest.mark.parametrize(
    "path", ["../team/config", '"../team/config"', "{root}/team/config", "team\\\n/config", "~/team"]
)
def test_an_included_configuration_is_held_with_the_hooks_that_it_names(
    repository, tmp_path, monkeypatch, condition, path
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home").mkdir()
    with open(repository.root / ".git" / "config", "a", encoding="utf-8") as file:
        file.write(f"[{condition}]\n\tpath = {path.format(root=repository.root)}\n")
    for place in (repository.root / "team/config", repository.root / ".git/team/config", tmp_path / "home/team"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("[include]\n\tpath = deeper\n[core]\n\thooksPath = tools # ours\n")
    assert is_held(repository, "tools/pre-commit")
    assert not is_held(repository, "other/pre-commit.txt")
    if "team/config" in path and ".." in path:
        assert is_held(repository, "team/config")
        assert is_held(repository, "team/deeper")


def test_a_file_that_the_users_configuration_includes_from_the_workspace_is_held(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (repository.root / "link").symlink_to("dotfiles")
    (tmp_path / ".gitconfig").write_text(
        f"[include]\n  path = {repository.root}/link/git\n[core]\n  hooksPath = link\n"
    )
    for path in ("link/git", "dotfiles/git", "dotfiles/pre-commit"):
        assert is_held(repository, path)
    assert not is_held(repository, "dotfile")


def test_that_needs_no_repository(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / ".gitconfig").write_text(f"[include]\n  path = {world.root}/dotfiles/git\n")
    assert is_held(world, "dotfiles/git")


def test_files_that_include_each_other_are_read_once(repository):
    with open(repository.root / ".git" / "config", "a", encoding="utf-8") as file:
        file.write("[include]\n\tpath = a\n\tpath = /dev/zero\n\tpath = .\n")
    (repository.root / ".git" / "a").write_text("[include]\n\tpath = b\n[core]\n\thookspath = tools\n")
    (repository.root / ".git" / "b").write_text("[include]\n\tpath = a\n\tpath = config\n")
    assert is_held(repository, "tools/pre-commit")


def test_where_more_is_included_than_is_read_everything_is_held(repository):
    config = repository.root / ".git" / "config"
    with open(config, "a", encoding="utf-8") as file:
        file.write("[include]\n" + "".join(f"\tpath = more{n}\n" for n in range(100)))
    assert not is_held(repository, "anything")
    with open(config, "a", encoding="utf-8") as file:
        file.write("[include]\n" + "".join(f"\tpath = other{n}\n" for n in range(300)))
    assert is_held(repository, "anything")


def test_hooks_of_a_linked_worktree_are_held(repository):
    git(repository, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    git(repository, "worktree", "add", "-q", "tree")
    git(repository, "config", "core.hooksPath", "tools")
    assert is_held(repository, "tree/tools/pre-commit")
    assert is_held(repository, "tools/pre-commit")
    assert not is_held(repository, "tree/other")


COMMONDIR = (
    "mkdir vendor; cp -r .git/objects .git/refs vendor/;"
    f'printf "[core]\\n repositoryformatversion = 0\\n bare = false{MARK}" > vendor/config; echo ../vendor > .git/commondir'
)
EMBEDDED = (
    "mkdir docs; cp -r .git/objects .git/refs .git/HEAD docs/;"
    f'printf "[core]\\n repositoryformatversion = 0\\n bare = false\\n worktree = .{MARK}" > docs/config'
)
BORROWED = "mkdir docs; cp .git/HEAD docs/; echo ../.git > docs/commondir; mkdir docs/hooks; echo exit > docs/hooks/x"


@pytest.mark.parametrize("script", [COMMONDIR, EMBEDDED], ids=["commondir", "embedded"])
def test_git_runs_nothing_of_an_agent_after_a_commit(repository, script):
    """Each makes git obey a configuration that the agent wrote; in the layer it does, which shows that the attack works."""
    world = repository
    where = "docs" if script == EMBEDDED else "."
    ran = world.root.parent / "ran"
    with world.layer() as layer:
        inside(layer, script)
        inside(layer, f"cd {where}; HOME=/nonexistent git status >/dev/null 2>&1 || true")
        assert ran.exists(), "the attack does not work"
        ran.unlink()
        plan = world.commit(layer)
    (world.root / "docs").mkdir(exist_ok=True)
    git(world, "status", check=False, cwd=world.root / where)
    assert not ran.exists()
    held = blocked(plan, "runs_later")
    assert held >= ({"docs/HEAD", "docs/config"} if script == EMBEDDED else {".git/commondir"})


def test_a_directory_that_borrows_a_repository_is_one(repository):
    with repository.layer() as layer:
        inside(layer, BORROWED)
        plan = repository.commit(layer)
    assert blocked(plan, "runs_later") == {"docs/HEAD", "docs/commondir", "docs/hooks/x"}


def test_a_repository_that_is_made_in_parts_is_held_when_it_becomes_one(repository):
    """No part of it is a repository on its own; the configuration is there when the last part comes."""
    with repository.layer() as layer:
        inside(layer, "mkdir docs; echo '[core]' > docs/config; cp -r .git/objects docs/")
        assert not repository.commit(layer).blocked
    with repository.layer("p2") as layer:
        inside(layer, "mkdir -p docs/refs/heads; echo 'ref: refs/heads/main' > docs/HEAD")
        plan = repository.commit(layer)
    assert blocked(plan, "runs_later") == {"docs/HEAD", "docs/refs", "docs/refs/heads"}
    assert not (repository.root / "docs" / "HEAD").exists()


def test_pushing_to_a_bare_repository_of_the_person_is_committed_and_its_configuration_is_held(repository):
    world = repository
    git(world, "init", "-q", "--bare", "-b", "main", "bare")
    with world.layer() as layer:
        inside(layer, AGENT + "g push -q ./bare main; echo '[core]' >> bare/config")
        plan = world.commit(layer)
    assert {one.path for one in plan.blocked} == {"bare/config"}
    assert git(world, "rev-parse", "main", cwd=world.root / "bare") == git(world, "rev-parse", "main")


def test_a_commit_of_an_agent_is_taken_without_a_question(repository):
    with repository.layer() as layer:
        inside(layer, AGENT + "echo two > a; g commit -qam second; g checkout -qb topic; g merge -q main; g gc -q")
        plan = repository.commit(layer)
    assert plan.blocked == []
    assert git(repository, "log", "--format=%s", "topic").split() == ["second", "first"]
    assert git(repository, "status", "--porcelain") == ""


GITHUB = "mkdir -p .github/workflows; echo evil > .github/workflows/ci.yml; "
FORGE = """python3 -c '
old, new = (bytes.fromhex(open(name).read().strip()) for name in ("old", "new"))
data = open(".git/index", "rb").read()
assert old in data
open(".git/index", "wb").write(data.replace(old, new))
'; """
ONLY_IN_GIT = {
    "commit": GITHUB + "g add .; g commit -qm evil",
    "index": GITHUB + "g add .",
    "index without a file": GITHUB + "g add .; rm -r .github",
    "old index": GITHUB + "g add .; g commit -qm evil; g reset -q --soft main~; g update-ref refs/heads/main main",
    "another branch": GITHUB + "g checkout -qb topic; g add .; g commit -qm evil; g checkout -q main",
    "a tag": GITHUB + "g add .; g commit -qm evil; g tag -a -m x v1; g reset -q --hard main~",
    "a tree": GITHUB + "g add .; g tag v1 $(g commit-tree -m x $(g write-tree)); g rm -rq --cached .github; rm -r .github",
    "a stash": GITHUB + "g stash -qu",
    "packed": GITHUB + "g checkout -qb topic; g add .; g commit -qm evil; g checkout -q main; g gc -q",
    "a detached head": GITHUB + "g checkout -q --detach; g add .; g commit -qm evil",
    "a worktree": "g worktree add -q ../tree -b topic; cd ../tree; " + GITHUB + "g add .; g commit -qm x; cd -; rm -r ../tree",
    "deep": "mkdir -p x/y/.vscode; echo evil > x/y/.vscode/tasks.json; g add .; g commit -qm evil; rm -r x",
    "a link": "ln -s evil .envrc; g add .; g commit -qm evil; rm .envrc",
    "a name with bytes": "mkdir 'x\303\244\377'; echo evil > 'x\303\244\377/.envrc'; g add .; g commit -qm evil",
    "version 4": GITHUB + "g update-index --index-version 4; g add .",
    "a link to a remote's branch": GITHUB + "g checkout -qb t; g add .; g commit -qm evil; g update-ref refs/remotes/o/m t;"
    "g checkout -q main; g branch -qD t; echo ref: refs/remotes/o/m > .git/refs/heads/topic",
    "an older stash": GITHUB + "g stash -qu; echo 3 > a; g stash -q",
    "a forged cache of trees": GITHUB + "g add .; g write-tree > new; g reset -q; rm -r .github; g write-tree > old; "
    + FORGE + "rm old new",
    "a replaced object": "g replace $(g rev-parse main:a) $(echo evil | g hash-object -w --stdin)",
    "reftable": "g refs migrate --ref-format=reftable || echo x > .git/sharedindex.x",
    "a damaged index": "echo x > .git/index",
    "a damaged reference": "echo x > .git/refs/heads/x",
    "a reference to nothing": "echo 0123456789012345678901234567890123456789 > .git/refs/heads/x",
}  # fmt: skip


@pytest.mark.parametrize("script", ONLY_IN_GIT.values(), ids=ONLY_IN_GIT)
def test_a_file_that_runs_later_does_not_come_by_way_of_git(repository, script):
    """A push would give it to a CI service, and a checkout would write it, without a question to the person."""
    world = repository
    (world.root / "b").write_text("other\n")
    git(world, "add", "b")
    git(world, "commit", "-qm", "mine")

    def stored():
        paths = [path for path in (world.root / ".git").rglob("*") if path.is_file() and path.parent.name != "info"]
        return {path: path.read_bytes() for path in paths}

    before = stored()
    with world.layer() as layer:
        inside(layer, AGENT + f"echo two > a; {script}")
        plan = world.commit(layer)
        assert stored() == before
        assert any(one.path[:5] == ".git/" and one.why == "runs_later" for one in plan.blocked)
        world.commit(layer, only=[rel(".git")])
    assert stored() != before


def test_damaged_git_data_is_unreadable_and_nothing_else(repository):
    """A commit fails for no other reason, whatever bytes an agent leaves there."""
    world, random = repository, Random(1)
    for name in ("b", "c"):
        (world.root / name).write_text(name * 5000)
    git(world, "add", ".")
    git(world, "commit", "-qm", "more")
    git(world, "gc", "-q")
    git(world, "update-index", "--index-version", "4")
    (world.root / ".git" / "objects" / "pack").chmod(0o755)
    stored = [
        path for path in (world.root / ".git").rglob("*") if path.suffix in (".idx", ".pack") or path.name == "index"
    ]
    tip = bytes.fromhex(git(world, "rev-parse", "main").strip())
    for number in range(300):
        path = stored[number % len(stored)]
        path.chmod(0o644)
        good = path.read_bytes()
        at = random.randrange(min(len(good), 1400))
        path.write_bytes(good[:at] + random.randbytes(random.randrange(3)) + good[at + random.randrange(3) :])
        with contextlib.suppress(UnreadableError):
            objects = Objects(world.base, (b".git",))
            read_index(objects.file((b"index",)), 20)
            for entry in objects.entries(objects.tree_of(tip) or b"").values():
                objects.read(entry.id)
        path.write_bytes(good)


def test_git_data_that_a_program_shortens_meanwhile_is_unreadable(repository):
    """A program may still be running when its proposal ends. A mapped file would kill the runtime."""
    git(repository, "gc", "-q")
    tip = bytes.fromhex(git(repository, "rev-parse", "main").strip())
    objects = Objects(repository.base, (b".git",))
    assert objects.read(tip)[0] == b"commit"
    for path in (repository.root / ".git/objects/pack").glob("*.pack"):
        path.chmod(0o644)
        os.truncate(path, 0)
    with pytest.raises(UnreadableError):
        objects.read(tip)


def test_git_data_takes_little_memory_however_large_it_says_it_is(repository):
    git_directory = repository.root / ".git"
    os.truncate(git_directory / "index", 1 << 34)
    delta = zlib.compress(bytes(30 * 1024 * 1024), 9)
    pack, wanted = b"\x30" + zlib.compress(b""), b"\x01" * 20
    starts = [0]
    for _ in range(20):
        starts.append(len(pack))
        pack += b"\x60" + offset_of_a_delta(starts[-1] - starts[-2]) + delta
    index = b"\xfftOc\0\0\0\2" + struct.pack(">256I", 0, *[1] * 255) + wanted + bytes(4) + struct.pack(">I", starts[-1])
    (git_directory / "objects/pack/p.idx").write_bytes(index)
    (git_directory / "objects/pack/p.pack").write_bytes(pack)
    objects = Objects(repository.base, (b".git",))
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError):
            objects.file((b"index",))
        with pytest.raises(UnreadableError):
            objects.read(wanted)
        assert tracemalloc.get_traced_memory()[1] < 200 * 1024 * 1024
    finally:
        tracemalloc.stop()


def offset_of_a_delta(distance):
    """Source: gitformat-pack(5), "offset encoding"."""
    found = [distance & 127]
    while distance := distance >> 7:
        distance -= 1
        found.append(128 | (distance & 127))
    return bytes(reversed(found))


@pytest.mark.parametrize(
    "script",
    [
        "g add .envrc; g commit -qm mine",
        "g checkout -qb topic; g rm -q --cached a; g commit -qm less; g gc -q; g tag -a -m x v1; g stash -q",
        "g branch old main; g pack-refs --all; g repack -qad; g commit -q --allow-empty -m none; g notes add -m x",
        "g update-ref refs/remotes/origin/main main; g clone -q . ../clone; g fetch -q ../clone main",
        "cp -r .github ci; g add ci; g commit -qm copied; g rm -rq --cached .github; g commit -qm less; g reset -q main~",
    ],
)
def test_git_data_with_nothing_new_that_runs_later_is_committed(repository, script):
    """What the person has in the working tree or in git already is not the agent's."""
    world = repository
    (world.root / ".github").mkdir()
    (world.root / ".github" / "ci.yml").write_text("mine\n")
    git(world, "add", ".github")
    git(world, "commit", "-qm", "mine")
    (world.root / ".envrc").write_text("mine\n")
    with world.layer() as layer:
        inside(layer, AGENT + script)
        assert world.commit(layer).blocked == []
    git(world, "fsck", "--strict")


PERSON = "echo mine > b; git add b"


@pytest.mark.parametrize("named", [None, ".git", ".git/refs", ".git/objects"])
def test_what_git_stores_is_committed_as_a_whole_or_not_at_all(repository, named):
    """A branch without its index would make the person's next commit take the agent's back."""
    world = repository
    before = git(world, "rev-parse", "main")
    with world.layer() as layer:
        inside(
            layer,
            AGENT + "echo two > a; echo new > new; g add new; g commit -qam second; echo x > .git/config.worktree",
        )
        subprocess.run(["sh", "-ec", PERSON], cwd=world.root, check=True)
        objects = {path for path in (world.root / ".git" / "objects").rglob("*") if path.is_file()}
        plan = world.commit(layer, only=None if named is None else [rel(named)])
        assert git(world, "rev-parse", "main") == before
        assert {path for path in (world.root / ".git" / "objects").rglob("*") if path.is_file()} == objects
        assert blocked(plan, "conflict")
        if named is None:
            assert ".git/refs/heads/main" in blocked(plan, "conflict")
            assert (world.root / "a").read_text() == "two\n"  # what is not git's is committed
        world.commit(layer, only=[rel(".git/config.worktree")])  # a setting that the person names is not a part of it
    assert (world.root / ".git" / "config.worktree").exists()
    git(world, "commit", "-qm", "mine")
    assert git(world, "log", "--format=%s", "main").split() == ["mine", "first"]
    git(world, "fsck", "--strict")


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock", "packed-refs.lock"])
def test_no_git_data_is_committed_while_a_persons_git_holds_a_lock(repository, lock, monkeypatch):
    """Git has read the index, and will replace it: the person's next commit would take the agent's back."""
    monkeypatch.setattr(layer_commit, "_GIT_SECONDS_MAX", 0.3)
    world = repository
    with world.layer() as layer:
        inside(layer, AGENT + "echo two > a; g commit -qam second")
        (world.root / ".git" / lock).touch()
        before = git(world, "rev-parse", "main")
        plan = world.commit(layer)
        assert f".git/{lock}" in plan.blocked[0].detail
        assert ".git/index" in blocked(plan, "conflict")
        assert git(world, "rev-parse", "main") == before
        end = threading.Timer(0.1, (world.root / ".git" / lock).unlink)
        end.start()
        assert not world.commit(layer).blocked, "it is waited for"
        end.join()
    assert git(world, "log", "--format=%s", "main").split() == ["second", "first"]


def test_another_repository_is_committed_all_the_same(repository):
    world = repository
    git(world, "init", "-q", "-b", "main", "sub")
    with world.layer() as layer:
        inside(layer, AGENT + "echo two > a; g commit -qam second; cd sub; echo s > s; g add s; g commit -qm sub")
        subprocess.run(["sh", "-ec", PERSON], cwd=world.root, check=True)
        plan = world.commit(layer)
    assert all(not one.path.startswith("sub") for one in plan.blocked)
    assert git(world, "log", "--format=%s", cwd=world.root / "sub").split() == ["sub"]


@pytest.mark.parametrize(
    "path",
    [
        "a", "new", "deep/er/new", ".envrc", "sub/.ENVRC", ".github/workflows/ci.yml", ".git/config", ".git/index",
        ".git/hooks/x", "tools/run/pre-commit", "tools/other", "team/config", "bare/refs/heads/x", "bare/objects/x",
        "half/refs/x", "half/HEAD", "half/commondir", "half/objects/ab/x", "hooks/pre-commit", "hooks/x.py",
        ".cargo/config.toml", "x.code-workspace",
    ],
)  # fmt: skip
def test_it_is_known_without_a_layer_what_a_layer_with_one_written_file_would_hold(repository, path):
    root = repository.root
    with open(root / ".git" / "config", "a", encoding="utf-8") as file:
        file.write("[core]\n\thooksPath = tools/run\n[include]\n\tpath = ../team/config\n")
    for directory in ("bare/refs", "bare/objects", "half/objects"):
        (root / directory).mkdir(parents=True)
    for directory in ("bare", "half"):
        (root / directory / "HEAD").write_text("ref: refs/heads/main\n")
    alone = may_run_later(repository.base, rel(path))
    with repository.layer() as layer:
        inside(layer, f"mkdir -p $(dirname {path}); echo agent > {path}")
        plan = plan_commit(layer, repository.run)
    held = path in blocked(plan, "runs_later")
    assert alone == (held or path == "bare/objects/x"), plan.blocked  # what git stores always needs a layer
