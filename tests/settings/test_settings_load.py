"""Finding, reading and trusting: the nearest file, read once, loaded only as it was trusted."""

import json
import os
import threading
import tomllib

import pytest

from interlock.disk import Disk
from interlock.model.errors import ConfigurationError, IntegrityError, StoreError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.settings import SourceFile, TrustStore, find, gather
from interlock.settings.decode import decode
from interlock.settings.file_bytes import read_bytes
from interlock.settings.load import load
from interlock.settings.named import CLIENT_FILES
from interlock.settings.schema import as_text, install
from interlock.settings.template import detect, render, write
from interlock.settings.trust import LINES_MATCHED_MAX


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / "a" / "b").mkdir(parents=True)
    return root.resolve()


@pytest.fixture
def trust(tmp_path):
    return TrustStore(tmp_path / "state", Disk())


def loaded(start, trust, **options):
    return load(start, env=options.pop("env", {}), flags=options.pop("flags", {}), trust=trust, **options)


def trusted(root, trust, **options):
    gathered = gather(root, **options)
    trust.record(gathered.root, gathered.files)
    return gathered


def untrusted(root, trust, **options):
    with pytest.raises(ConfigurationError) as caught:
        loaded(root, trust, **options)
    assert (caught.value.code, caught.value.exit_code) == ("untrusted_configuration", 2)
    assert "interlock trust" in caught.value.hint
    return caught.value


# --- finding


def test_the_nearest_file_upwards_is_found(project, trust):
    (project / "interlock.toml").write_text("agent = 'far'")
    assert find(project / "a" / "b").path == project / "interlock.toml"
    (project / "a" / "interlock.toml").write_text("agent = 'near'")
    gathered = trusted(project / "a" / "b", trust)
    assert gathered.root == project / "a"
    assert loaded(project / "a" / "b", trust).settings.agent == "near"


def test_a_table_in_pyproject_counts_only_if_it_is_there(project, trust):
    (project / "interlock.toml").write_text("agent = 'outer'")
    (project / "a" / "pyproject.toml").write_text("[project]\nname = 'interlock-user'")
    assert find(project / "a").path == project / "interlock.toml"
    (project / "a" / "pyproject.toml").write_text("[project]\nname = 'x'\n\n[tool.interlock]\nagent = 'inner'")
    trusted(project / "a", trust)
    got = loaded(project / "a", trust)
    assert got.settings.agent == "inner"
    assert [name for name in got.protected if name not in CLIENT_FILES] == ["pyproject.toml"]


def test_both_in_one_directory_is_an_error(project):
    (project / "interlock.toml").write_text("")
    (project / "pyproject.toml").write_text("[tool.interlock]")
    with pytest.raises(ConfigurationError, match="both"):
        find(project)


def test_errors_in_pyproject_name_its_line(project):
    (project / "pyproject.toml").write_text("[project]\nname='x'\n[tool.interlock.rules]\nalow=[]")
    with pytest.raises(ConfigurationError) as caught:
        gather(project)
    assert caught.value.path == "pyproject.toml:4: rules.alow"
    (project / "pyproject.toml").write_text("[tool]\ninterlock = 3")
    with pytest.raises(ConfigurationError, match="not a table"):
        gather(project)


def test_no_configuration_at_all(project, trust):
    with pytest.raises(ConfigurationError) as caught:
        loaded(project, trust)
    assert "interlock init" in caught.value.hint
    with pytest.raises(ConfigurationError):
        loaded(project, trust, explicit=project / "nowhere.toml")


def test_a_directory_is_named_even_if_it_is_this_one(project, trust, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(ConfigurationError, match=r"`\.` is not a regular file"):
        loaded(project, trust, explicit=type(project)("."))


def test_an_explicit_file_wins_and_may_have_any_name(project, trust):
    (project / "interlock.toml").write_text("agent = 'found'")
    (project / "a" / "other.toml").write_text("agent = 'named'")
    trusted(project, trust, explicit=project / "a" / "other.toml")
    got = loaded(project, trust, explicit=project / "a" / "other.toml")
    assert (got.settings.agent, got.root) == ("named", project / "a")


# --- reading


def test_a_link_is_refused(project):
    (project / "real.toml").write_text("")
    (project / "interlock.toml").symlink_to("real.toml")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        find(project)
    (project / "interlock.toml").unlink()
    (project / "interlock.toml").symlink_to("nowhere")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        find(project)


def test_a_linked_pyproject_matters_only_if_it_has_our_table(project):
    (project / "real.toml").write_text("[project]")
    (project / "pyproject.toml").symlink_to("real.toml")
    assert find(project) is None
    (project / "real.toml").write_text("[tool.interlock]")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        find(project)


def test_a_fifo_a_directory_and_a_device_are_refused_without_waiting(project):
    path = project / "interlock.toml"
    os.mkfifo(path)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        find(project)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="not a regular file"):
        find(project)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_bytes(type(path)("/dev/zero"))


def test_size_is_limited_at_the_limit(project):
    path = project / "x"
    path.write_bytes(b"12345")
    assert read_bytes(path, bytes_max=5) == b"12345"
    with pytest.raises(ConfigurationError, match="config_bytes"):
        read_bytes(path, bytes_max=4)
    os.truncate(path, DEFAULT_LIMITS.config_bytes + 1)
    with pytest.raises(ConfigurationError, match="config_bytes"):
        read_bytes(path)


def test_what_the_system_does_not_let_us_read(project):
    (project / "loop").symlink_to("loop")
    for path in (project / "loop" / "interlock.toml", project / ("x" * 300)):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_bytes(path)
    assert read_bytes(project / "nowhere" / "x") is None


# --- trust


def test_untrusted_is_refused_and_trusted_is_loaded(project, trust):
    path = project / "interlock.toml"
    path.write_text("agent = 'a'\n")
    assert "interlock.toml (new)" in untrusted(project, trust).message
    trusted(project, trust)
    assert loaded(project, trust).settings.agent == "a"
    path.write_text("agent = 'b'\n")
    assert "interlock.toml (changed)" in untrusted(project, trust).message
    (change,) = trust.check(project, gather(project).files)
    assert change.status == "changed"
    assert "-agent = 'a'" in change.diff
    assert "+agent = 'b'" in change.diff
    path.write_text("agent = 'a'\n")
    assert loaded(project, trust).settings.agent == "a"


def test_the_record_is_kept_across_processes_and_is_private(project, trust, tmp_path):
    (project / "interlock.toml").write_text("")
    trusted(project, trust)
    file = tmp_path / "state" / "trust.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert loaded(project, TrustStore(tmp_path / "state", Disk()))


def test_trust_is_for_one_project(project, trust, tmp_path):
    (project / "interlock.toml").write_text("agent = 'a'")
    trusted(project, trust)
    other = tmp_path / "other"
    other.mkdir()
    (other / "interlock.toml").write_text("agent = 'a'")
    untrusted(other, trust)


def test_every_file_that_the_loader_reads_is_trusted_by_itself(project, trust):
    (project / "interlock.toml").write_text(
        "[policy]\nfiles = ['policy/*.cedar', 'extra.cedar']\n[tools]\nmodules = ['pkg.tools', 'single']\n"
        "[capsules.h]\npath = 'caps/h'"
    )
    (project / "policy").mkdir()
    files = {
        "policy/a.cedar": "permit(principal, action, resource);",
        "policy/b.cedar": "forbid(principal, action, resource);",
        "extra.cedar": "",
        "pkg/__init__.py": "",
        "pkg/tools.py": "x = 1",
        "src/single.py": "",
        "caps/h/capsule.toml": "[package]\nname = 'h'\nversion = '1.0.0'\n[component]\nfile = 'h.wasm'\n",
    }
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    (project / "policy" / ".#a.cedar").symlink_to("somebody@host")  # an editor's lock
    gathered = trusted(project, trust)
    assert {f.name for f in gathered.files} == {"interlock.toml", *files}
    assert set(gathered.protected) > {"interlock.toml", "policy", *files}
    assert list(gathered.modules.items()) == [
        ("pkg", "pkg/__init__.py"),
        ("pkg.tools", "pkg/tools.py"),
        ("single", "src/single.py"),
    ]
    got = loaded(project, trust)
    assert got.text("policy/a.cedar") == files["policy/a.cedar"]
    for name in files:
        before = (project / name).read_text()
        (project / name).write_text(before + "# edited")
        assert f"{name} (changed)" in untrusted(project, trust).message
        (project / name).write_text(before)
    digest = got.digest
    assert loaded(project, trust).digest == digest
    # a policy that forbids must not just go away, nor may one appear
    (project / "policy/b.cedar").rename(project / "b")
    assert "policy/b.cedar (removed)" in untrusted(project, trust).message
    (project / "b").rename(project / "policy/b.cedar")
    (project / "policy/c.cedar").write_text("")
    assert "policy/c.cedar (new)" in untrusted(project, trust).message
    trusted(project, trust)
    assert loaded(project, trust).digest != digest


def test_extra_files_count_only_where_they_are_used_and_present(project, trust):
    (project / "interlock.toml").write_text("")
    trusted(project, trust, extra=("interlock.lock", ".mcp.json"))
    assert loaded(project, trust, extra=("interlock.lock", ".mcp.json"))
    (project / ".mcp.json").write_text("{}")
    assert loaded(project, trust)
    assert ".mcp.json (new)" in untrusted(project, trust, extra=(".mcp.json",)).message


def test_only_the_table_of_pyproject_needs_trust(project, trust):
    path = project / "pyproject.toml"
    table = "[tool.interlock]\nagent = 'a'\n[tool.interlock.grants.a]\nexpires_at = 2030-01-01T00:00:00Z\n"
    path.write_text("[project]\nname = 'x'\n" + table)
    trusted(project, trust)
    path.write_text("[project]\nname = 'y'\ndependencies = ['z']\n" + table)
    assert loaded(project, trust).settings.agent == "a"
    path.write_text("[project]\nname = 'x'\n" + table.replace("'a'", "'b'"))
    untrusted(project, trust)


def test_the_bytes_that_were_checked_are_the_bytes_that_are_loaded(project, trust, monkeypatch):
    (project / "interlock.toml").write_text("[policy]\nfiles = ['p.cedar']")
    (project / "p.cedar").write_text("good")
    trusted(project, trust)
    check = TrustStore.require

    def swap(self, root, files):
        check(self, root, files)
        (project / "p.cedar").write_text("evil")
        (project / "interlock.toml").write_text("agent = 'evil'")

    monkeypatch.setattr(TrustStore, "require", swap)
    got = loaded(project, trust)
    assert got.text("p.cedar") == "good"
    assert got.settings.agent == "agent"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[policy]\nfiles = ['missing.cedar']", "policy.files[0]"),
        ("[policy]\nfiles = ['*/x.cedar']", "policy.files[0]"),
        ("[policy]\nfiles = ['**']", "policy.files[0]"),
        ("[policy]\nfiles = ['policy']", None),
        ("[policy]\nfiles = ['polciy/*.cedar']", "policy.files[0]"),
        ("[policy]\nfiles = ['*.cedar']", "policy.files[0]"),
        ("[policy]\nfiles = ['policy/../*.cedar']", "policy.files[0]"),
        ("[policy]\nfiles = ['../*.cedar']", "policy.files[0]"),
        ("[tools]\nmodules = ['nowhere.at_all']", "tools.modules[0]"),
        ("[capsules.x]\npath = 'nowhere'", "capsules.x.path"),
    ],
)
def test_a_named_file_that_cannot_be_read_is_an_error(project, text, place):
    (project / "policy").mkdir()
    (project / "interlock.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        gather(project)
    assert place is None or caught.value.path.endswith(place)


@pytest.mark.parametrize("shadow", ["pkg/tools/__init__.py", "pkg/tools.abi3.so", "pkg/tools.so"])
def test_a_file_that_could_replace_a_trusted_module_is_an_error(project, shadow):
    (project / "interlock.toml").write_text("[tools]\nmodules = ['pkg.tools']")
    for name in ("pkg/tools.py", "pkg/tools_other.py"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("")
    assert [f.name for f in gather(project).files] == ["interlock.toml", "pkg/tools.py"]
    (project / shadow).parent.mkdir(exist_ok=True)
    (project / shadow).write_text("")
    with pytest.raises(ConfigurationError) as caught:
        gather(project)
    assert shadow in caught.value.hint


@pytest.mark.parametrize("pattern", ["a/*.cedar", "./a//*.cedar", "b/../a/*.cedar", "%s/a/*.cedar"])
def test_no_agent_may_write_where_a_new_policy_would_be_read(project, pattern):
    (project / "interlock.toml").write_text(f"[policy]\nfiles = ['{pattern.replace('%s', str(project))}']")
    for parent in ("a", "b"):
        (project / parent).mkdir(exist_ok=True)
    assert "a" in gather(project).protected


def test_a_policy_is_one_whatever_its_file_is_called(project, trust):
    (project / "interlock.toml").write_text("[policy]\nfiles = ['forbid.txt', 'policy/*']\n[tools]\nmodules = ['m']\n")
    (project / "policy").mkdir()
    for name in ("forbid.txt", "policy/a.cedar", "policy/b", "m.py"):
        (project / name).write_text("")
    trusted(project, trust)
    assert loaded(project, trust).policies == ("forbid.txt", "policy/a.cedar", "policy/b")


def test_names_and_texts_that_are_not_utf8(project, trust):
    (project / "interlock.toml").write_text("[policy]\nfiles = ['a/*.cedar']")
    (project / "a" / "a.cedar").write_bytes(b"ok\n\xff")
    trusted(project, trust)
    with pytest.raises(ConfigurationError) as caught:
        loaded(project, trust).text("a/a.cedar")
    assert caught.value.path == "a/a.cedar:2"
    (project / "a" / "\udcff.cedar").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="name of a file"):
        gather(project)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_difference_of_many_lines_is_shown_without_matching_them(project, trust, extra):
    path = project / "interlock.toml"
    lines = [f"# {n % 700}" for n in range(LINES_MATCHED_MAX // 2)]
    path.write_text("\n".join(["agent = 'a'", *lines, "# end"]))
    trusted(project, trust)
    path.write_text("\n".join(["agent = 'a'", *reversed(lines), *["# more"] * extra, "# end"]))
    assert "interlock.toml (changed)" in untrusted(project, trust).message
    (change,) = trust.check(project, trust_files(project))
    shown = change.diff.split("\n")
    assert shown[:3] == [
        "--- interlock.toml (trusted)",
        "+++ interlock.toml",
        f"@@ -2,{len(lines)} +2,{len(lines) + extra} @@",
    ]
    assert shown[3:] == [*("-" + x for x in lines), *("+" + x for x in reversed(lines)), *["+# more"] * extra]


def test_the_difference_hides_nothing(project, trust):
    path = project / "interlock.toml"
    path.write_text("agent = 'a'\n")
    trusted(project, trust)
    path.write_text("agent = 'a'\r\n# \x1b[2J \u202e\n# \u200b")
    (change,) = trust.check(project, trust_files(project))
    assert "\\r" in change.diff
    assert "\\x1b" in change.diff
    assert "\\u202e" in change.diff
    assert "\\u200b" in change.diff
    assert "\x1b" not in change.diff


def trust_files(project):
    return [SourceFile("interlock.toml", (project / "interlock.toml").read_bytes())]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "projects": {}}', '{"version": 1, "projects": {"a": 1}}', "\xff"]
)
def test_a_damaged_record_trusts_nothing(project, trust, tmp_path, text):
    (project / "interlock.toml").write_text("")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "trust.json").write_text(text, encoding="latin-1")
    with pytest.raises(IntegrityError) as caught:
        loaded(project, trust)
    assert caught.value.hint


def test_two_who_record_at_once_lose_nothing(tmp_path, trust):
    roots = []
    for number in range(12):
        root = tmp_path / f"p{number}"
        root.mkdir()
        (root / "interlock.toml").write_text(f"agent = 'a{number}'")
        roots.append(root)
    threads = [threading.Thread(target=trusted, args=(root, TrustStore(tmp_path / "state", Disk()))) for root in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for root in roots:
        assert loaded(root, trust)


# --- what is in force, and why


def test_overrides_come_after_trust_and_are_explained(project, trust):
    (project / "interlock.toml").write_text(
        "[budget]\nactions = 10\nduration = '2h'\n[tools.shell]\ntimeout = '5s'\n[grants.x]\ntools = ['a']"
    )
    trusted(project, trust)
    got = loaded(project, trust, env={"INTERLOCK_BUDGET_ACTIONS": "5", "HOME": "/"}, flags={"rules.deny": ["x"]})
    assert got.settings.budget.actions == 5
    told = {row["path"]: (row["value"], row["source"]) for row in got.explain()}
    assert told["budget.actions"] == (5, "environment INTERLOCK_BUDGET_ACTIONS")
    assert told["budget.duration"] == ("2h", "interlock.toml")
    assert told["rules.deny"] == (["x"], "flag rules.deny")
    assert told["approvals.ttl"] == ("10m", "default")
    assert told["isolation.memory"] == ("1GiB", "default")
    assert told["tools.shell.timeout"] == ("5s", "interlock.toml")
    assert told["grants.x.tools"] == (["a"], "interlock.toml")
    assert told["grants.x.hosts"] == ([], "default")
    json.dumps(got.explain())
    assert got.digest != loaded(project, trust).digest
    with pytest.raises(ConfigurationError) as caught:
        loaded(project, trust, env={"INTERLOCK_BUDGET_ACTIONS": "11"})
    assert caught.value.code == "override_loosens"


# --- interlock init


@pytest.mark.parametrize(
    ("files", "languages", "git"),
    [
        ([], (), False),
        (["pyproject.toml", "src/pkg/__init__.py", "tests/test_x.py", ".git/HEAD"], ("python",), True),
        (["setup.py", "mypkg/__init__.py"], ("python",), False),
        (["package.json", "lib/x.js"], ("node",), False),
        (["Cargo.toml", "go.mod", "cmd/x.go"], ("rust", "go"), False),
    ],
)
def test_init_writes_a_configuration_that_loads(project, trust, files, languages, git):
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    assert (detect(project).languages, detect(project).git) == (languages, git)
    path = write(project, agent="coder")
    trusted(project, trust)
    settings = loaded(project, trust).settings
    assert path == project / "interlock.toml"
    assert settings.agent == "coder"
    assert "fs.read" in settings.rules.allow
    assert "shell" in settings.rules.ask
    assert ("git.status" in settings.rules.allow) == git
    assert settings.grant("coder").paths.read == ("**",)
    assert settings.unavailable({"approvals", "isolation.ns", "workspace.layer"}) == []
    if "mypkg/__init__.py" in files:
        assert "mypkg/**" in settings.grant("coder").paths.write


def test_what_the_template_comments_are_the_defaults(project):
    text = render(detect(project))
    lines = text.splitlines()
    for section in ("approvals", "isolation", "journal"):  # for budget and guard, examples stand there
        start = lines.index(f"#[{section}]")
        block = lines[start : lines.index("", start)]
        table = tomllib.loads("\n".join(line.removeprefix("#") for line in block))
        assert table[section]
        assert getattr(decode(table), section) == getattr(decode({}), section)
    everything = "\n".join(
        line.removeprefix("#") if line.startswith("#") and line[1:2] not in (" ", "") else line for line in lines
    )
    uncommented = decode(tomllib.loads(everything))
    assert uncommented.budget.actions == 500
    assert uncommented.guard.cpu == 0.9


def test_a_name_that_toml_must_quote(project):
    assert decode(tomllib.loads(render(detect(project), agent='we"ird name'))).grant('we"ird name')


@pytest.mark.parametrize("agent", ["", "a\nb", "x" * 257, "group:x", "operator"])
def test_init_with_a_name_that_no_agent_can_have_leaves_nothing(project, agent):
    with pytest.raises(ConfigurationError) as caught:
        write(project, agent=agent)
    assert caught.value.path == "agent"
    assert not (project / "interlock.toml").exists()


def test_init_on_a_full_disk_leaves_nothing(project, monkeypatch):
    real = os.open

    def full(path, *rest):
        fd = real(path, *rest)
        if str(path).endswith("interlock.toml"):
            os.dup2(disk := real("/dev/full", os.O_WRONLY), fd)
            os.close(disk)
        return fd

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(StoreError, match="cannot be written: No space left"):
        write(project)
    assert not (project / "interlock.toml").exists()


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_init_where_the_schema_cannot_be_written_names_none(project, tmp_path, obstacle):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if obstacle == "file":
        (project / ".interlock").write_text("mine")
    else:
        (project / ".interlock").symlink_to(elsewhere)
    assert not write(project).read_text().startswith("#:schema")
    assert list(elsewhere.iterdir()) == []


def test_the_copy_of_the_schema_is_brought_up_to_date(project):
    copy = project / ".interlock/interlock.schema.json"
    write(project)
    copy.write_text("of an older version")
    assert install(project, Disk())
    assert copy.read_text() == as_text()
    assert copy.stat().st_mode & 0o777 == 0o644


def test_init_never_overwrites(project):
    path = project / "interlock.toml"
    path.write_text("mine")
    with pytest.raises(ConfigurationError):
        write(project)
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(ConfigurationError):
        write(project)
    assert not (project / "elsewhere").exists()
    path.unlink()
    (project / "pyproject.toml").write_text("[tool.interlock]")
    with pytest.raises(ConfigurationError, match="already"):
        write(project)
    assert write(project / "a") == project / "a" / "interlock.toml"
