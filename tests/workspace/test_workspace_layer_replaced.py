"""What a person saves or renames after a layer was opened is a conflict, also before the agent first touches the path."""

import contextlib
import os
import random
import shutil

import msgspec
import pytest
from layer_world import inside

from interlock.workspace import Origin, effects, layer_diff
from interlock.workspace.backups import Change
from interlock.workspace.layer_commit import commit_layer, plan_commit
from interlock.workspace.layers import read_manifest
from interlock.workspace.nodes import ABSENT, Node
from interlock.workspace.tree import hash_file


def conflicts(plan):
    return {one.path for one in plan.blocked if one.why == "conflict"}


def put(layer, backups, path, text):
    """Write a file as `fs.write` does: examined, recorded and replaced."""
    with layer.workspace.changing():
        seen = layer.workspace.examine(path, read=backups.keep)
        sha256 = hash_of(text, backups)
        after = Node("file", mode=seen.node.mode or 0o644, size=len(text), sha256=sha256)
        entries = backups.record(Origin("p1", "w"), [Change(path, seen.node, after)])
        effects.put_file(
            layer.workspace,
            effects.NewFile(path, [text.encode()], after.mode, seen.identity, backups.temporary(entries[0])),
        )


def hash_of(text, backups):
    place = backups.run / "hashed"
    place.write_text(text)
    fd = os.open(place, os.O_RDONLY)
    try:
        return hash_file(fd)[0]
    finally:
        os.close(fd)


def delete(layer, backups, path):
    """Delete a file as `fs.delete` does."""
    seen = layer.workspace.examine(path, read=backups.keep)
    if seen.identity is not None and seen.node.kind != "dir":
        backups.record(Origin("p1", "d"), [Change(path, seen.node, ABSENT)])
        effects.remove(layer.workspace, path, expect=seen.identity)


@pytest.mark.parametrize("act", ["write", "delete"])
def test_a_tool_that_finds_what_a_person_saved_since_the_layer_was_opened_does_not_overwrite_it(world, act):
    (world.root / "a").write_text("one\n")
    with world.layer() as layer, contextlib.closing(layer.backups(world.clock)) as backups:
        (world.root / "a").write_text("person\n")
        if act == "write":
            put(layer, backups, (b"a",), "agent\n")
        else:
            delete(layer, backups, (b"a",))
        assert conflicts(plan_commit(layer, world.run)) == {"a"}


def directories(world, *, deep):
    """A directory, and one that a person has prepared outside of the workspace before the layer was opened."""
    top = world.root / "lib" if deep else world.root
    top.mkdir(exist_ok=True)
    prepared = world.root.parent / "prepared"
    for place, text in ((top / "d", "one\n"), (prepared, "prepared\n")):
        (place / "sub").mkdir(parents=True)
        for name in ("b", "sub/x", "mine"):
            (place / name).write_text(text)
    return top / "d", prepared


@pytest.mark.parametrize("name_added", [False, True], ids=["renamed", "and-a-file-saved"])
@pytest.mark.parametrize("listed", [0, 16], ids=["unlisted", "listed"])
@pytest.mark.parametrize("deep", [False, True], ids=["top", "deep"])
def test_files_of_a_directory_that_was_put_into_the_place_of_another_are_conflicts(
    world, monkeypatch, deep, listed, name_added
):
    monkeypatch.setattr(layer_diff, "_LISTED_MAX", listed)
    place, prepared = directories(world, deep=deep)
    with world.layer() as layer:
        place.rename(world.root.parent / "gone")
        prepared.rename(place)
        if name_added:
            (place / "new").write_text("person\n")
        inside(layer, f"cd {place.relative_to(world.root)}; echo agent > b; rm sub/x; echo agent > added")
        at = os.path.relpath(place, world.root)
        plan = world.commit(layer)
        assert conflicts(plan) >= {f"{at}/b", f"{at}/sub/x"}
    assert (place / "b").read_text() == (place / "sub" / "x").read_text() == "prepared\n"


@pytest.mark.parametrize("listed", [1, 16])
def test_work_in_a_listed_directory_and_the_one_above_is_no_conflict(world, monkeypatch, listed):
    """A person's editor may replace every file that it saves, which changes names in both."""
    monkeypatch.setattr(layer_diff, "_LISTED_MAX", listed)
    place, _ = directories(world, deep=listed > 1)
    with world.layer() as layer:
        for one in (place / "mine", place.parent / "mine"):
            temporary = one.with_name("mine~")
            temporary.write_text("person\n")
            temporary.rename(one)
        inside(layer, f"cd {place.relative_to(world.root)}; echo agent > b; rm sub/x")
        assert world.commit(layer).blocked == []


def test_a_layer_without_a_list_of_directories_can_be_committed(world):
    """A kept layer of an earlier version."""
    place, _ = directories(world, deep=True)
    with world.layer() as layer:
        layer.manifest = msgspec.structs.replace(layer.manifest, directories=[], index_bytes=0)
        inside(layer, f"cd {place.relative_to(world.root)}; echo agent > b; rm sub/x")
        (place / "new").write_text("person\n")
        assert world.commit(layer).blocked == []


def test_the_list_is_limited_and_leaves_out_what_is_hidden(world, monkeypatch):
    for name in (".git/refs", "node_modules/x", "a/b/c", "z/y"):
        (world.root / name).mkdir(parents=True)

    def listed():
        return {b"/".join(path): set(inside) for path, inside in known(layer_diff.list_directories(world.base))}

    def known(found):
        return layer_diff.known_directories(found).items()

    assert listed() == {
        b"": {b".git", b"node_modules", b"a", b"z"}, b"a": {b"b"}, b"z": {b"y"}, b"a/b": {b"c"}, b"z/y": set(),
        b"a/b/c": set(),
    }  # fmt: skip
    monkeypatch.setattr(layer_diff, "_NAMES_MAX", 5)
    assert set(listed()) == {b"", b"a"}
    with world.layer() as layer:
        kept = read_manifest(layer.directory).directories
        assert (layer.manifest.kind == "copy") is not kept


PATHS = ("a", "b", "d/a", "d/b", "d/e/a", "d/e/b", "x/y/a")


class Person:
    """Changes the workspace at random; no two saved contents are equal."""

    def __init__(self, world, chance):
        self.root, self.chance, self.count = world.root, chance, 0
        self.outside = world.root.parent / f"outside{chance.random()}"
        self.prepared = []
        for place in ("d", "d/e", "x", "x/y"):
            to = self.outside / place.replace("/", "-")
            shutil.copytree(self.root / place, to)
            for path in to.rglob("*"):
                if path.is_file():
                    path.write_text(self.text())
            self.prepared.append((self.root / place, to))

    def text(self):
        self.count += 1
        return f"person {self.count}\n"

    def act(self):
        path = self.root / self.chance.choice(PATHS)
        what = self.chance.choice(
            [self.save, self.replace, self.old_time, self.rename, self.delete, self.swap, self.beside]
        )
        with contextlib.suppress(OSError):
            what(path)

    def save(self, path):
        path.write_text(self.text())

    def replace(self, path):
        path.with_name("t~").write_text(self.text())
        path.with_name("t~").rename(path)

    def old_time(self, path):
        seen = path.stat()
        path.write_text(self.text())
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    def rename(self, path):
        (self.root / self.chance.choice(PATHS)).rename(path)

    def delete(self, path):
        path.unlink()

    def beside(self, path):
        (path.parent / f"new{self.count}").write_text(self.text())

    def swap(self, _):
        place, prepared = self.prepared.pop(self.chance.randrange(len(self.prepared)))
        self.count += 1
        place.rename(self.outside / f"gone{self.count}")
        prepared.rename(place)


class Agent:
    """Changes the layer at random, by processes and by file tools."""

    def __init__(self, layer, backups, chance):
        self.layer, self.backups, self.chance, self.count = layer, backups, chance, 0

    def act(self):
        path = self.chance.choice(PATHS)
        self.count += 1
        with contextlib.suppress(OSError, Exception):
            self.chance.choice([self.write, self.replace, self.unlink, self.remake, self.tool_write, self.tool_delete])(
                path
            )

    def file(self, path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=self.layer.workspace.fd)
        os.write(fd, f"agent {self.count}\n".encode())
        os.close(fd)

    def write(self, path):
        self.file(path)

    def replace(self, path):
        self.file(path + "~")
        os.rename(path + "~", path, src_dir_fd=self.layer.workspace.fd, dst_dir_fd=self.layer.workspace.fd)

    def unlink(self, path):
        os.unlink(path, dir_fd=self.layer.workspace.fd)

    def remake(self, path):
        directory = os.path.dirname(path)
        shutil.rmtree(directory, dir_fd=self.layer.workspace.fd)
        os.mkdir(directory, dir_fd=self.layer.workspace.fd)
        self.file(path)

    def tool_write(self, path):
        put(self.layer, self.backups, tuple(os.fsencode(path).split(b"/")), f"agent {self.count}\n")

    def tool_delete(self, path):
        delete(self.layer, self.backups, tuple(os.fsencode(path).split(b"/")))


def contents(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", range(4))
def test_no_commit_takes_what_a_person_did_since_the_layer_was_opened(world, monkeypatch, seed):
    chance = random.Random(seed)
    for number in range(25):
        monkeypatch.setattr(layer_diff, "_LISTED_MAX", chance.choice([0, 1, 16]))
        for path in world.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in PATHS:
            (world.root / name).parent.mkdir(parents=True, exist_ok=True)
            (world.root / name).write_text("first\n")
        person = Person(world, chance)
        before = contents(world.root)
        with world.layer(f"p{number}") as layer, contextlib.closing(layer.backups(world.clock)) as backups:
            agent = Agent(layer, backups, chance)
            did = [chance.choice([person, person, agent, agent]) for _ in range(chance.randrange(2, 12))]
            for one in did:
                one.act()
            theirs = {path: text for path, text in contents(world.root).items() if before.get(path) != text}
            plan = plan_commit(layer, world.run)
            commit_layer(layer, world.run, world.main, plan, Origin("p1", "sh"))  # what is not a conflict
        after = contents(world.root)
        assert {path: text for path, text in theirs.items() if after.get(path) != text} == {}, plan
