"""The parser beside real shells: no program may run that it did not name, unless it said that the line is unclear.

Programs `p0` ... `p4` write their name to a log; the wrappers are the machine's own. Lines are drawn from a grammar of
everything that starts programs, with quoting in all its forms. Each line has a directory and a log of its own: what one
line left in the background (`timeout` makes a process group of its own) writes its name to the log of no other.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.detect.commands import parse_shell

PROGRAMS = tuple(f"p{i}" for i in range(5))
WRAPPERS = ("env", "nice", "nohup", "timeout", "xargs", "find", "sh", "stdbuf", "cat", "true")
SHELLS = tuple(shell for shell in ("sh", "bash", "dash", "zsh") if shutil.which(shell))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `bin`, the only PATH; a program writes its name to the log beside the directory that it runs in."""
    place = tmp_path_factory.mktemp("traced")
    (place / "bin").mkdir()
    shell = shutil.which("sh")
    for name in PROGRAMS:
        program = place / "bin" / name
        program.write_text(f'#!{shell}\necho {name} >> "$(pwd -P).log"\n')
        program.chmod(0o755)
    for name in WRAPPERS:
        found = shutil.which(name)
        assert found is not None, name
        (place / "bin" / name).symlink_to(found)
    return place


numbers = itertools.count()


def ran(place: Path, shell: str, text: str) -> set[str]:
    """Which of the programs a real shell runs for this text."""
    work = place.resolve() / f"work-{next(numbers)}"
    work.mkdir()
    log = work.with_name(f"{work.name}.log")
    log.touch()
    process = subprocess.Popen(
        [shutil.which(shell) or shell, *(["-f"] if shell == "zsh" else []), "-c", text],
        cwd=work,
        env={"PATH": str(place / "bin"), "x": "p0", "HOME": str(work)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):  # an endless loop has run what it runs by then
        process.wait(timeout=2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return set(log.read_text().split())


def quoted(word: str, how: int) -> str:
    return (
        word,
        f"'{word}'",
        f'"{word}"',
        f"\\{word}",
        f'{word[0]}"{word[1:]}"',
        f"{word[0]}'{word[1:]}'",
        f"{word}''",
    )[how]


programs = st.builds(quoted, st.sampled_from(PROGRAMS), st.integers(0, 6))
words = st.sampled_from(
    ("-q", "a", "'a b'", '"c"', "$x", '"$x"', "*", "~", "{}", "a#b", "#", "\\;", "p1", "''", "$'p1'", "{p1,p2}")
)
simple = st.builds(lambda program, rest: " ".join((program, *rest)), programs, st.lists(words, max_size=2))
prefixes = st.sampled_from(
    (
            "", "", "", "x=p1 ", "env ", "env A=1 ", "env -i PATH=$PATH ", "nice ", "nice -n 1 ", "nohup ",
            "timeout 9 ", "timeout -k 1 9 ", "command ", "exec ", "time ", "! ", "stdbuf -o0 ", "setsid ",
            "builtin ", "eval ", "xargs ", "echo a | xargs ", "find . -exec ", "trap ", "command -v ", "coproc ",
            "function ", "\\command ", "'env' ", "$x ", "alias p3=p4; ", "p3() { p4; }; ", "> f ",
        )
    )  # fmt: skip
suffixes = st.sampled_from(
    (
        "",
        "",
        "",
        " > f",
        " 2>&1",
        " < /dev/null",
        " \\;",
        " EXIT",
        " &",
        " &> f",
        " <<EOF\n$(p2)\nEOF\n",
        " #p1",
        "; wait",
    )
)
commands = st.builds(lambda a, b, c: a + b + c, prefixes, simple, suffixes)
# Words that are not judged, because they are no words of a command. What ends a quotation here hides what follows it.
quotations = st.sampled_from(
    (
        "$'\\'", "'\\'", '"\\"', "\\'", '\\"', '$"\\"', "${y:-'}'}", '"${y:-\'}\'"', "${y:-\\}}", "$'\\''", "''\\''",
        "`echo \\`p0\\``", "`echo '\\`p0\\`'`", "$(echo '`p0`')", '"$(echo "\\"p0\\"")"',
    )
)  # fmt: skip
hiding = st.builds(
    lambda frame, quotation, hidden, shown: frame.format(quotation, hidden, shown),
    st.sampled_from(
        (
            "for i in {0}; do {1}; done #'; do {2}; done", "for i in {0}; do {2}; done",
            "case {0} in *) {1};; esac #' in *) {2};; esac",
            "case a in {0}) {1};; *) {2};; esac", "{2} #{0}\n{1}", 'for i in {0}; do {1}; done #"; do {2}; done',
            "for i in {0} '; {1}; '; do {2}; done",
        )
    ),
    quotations,
    simple,
    simple,
)  # fmt: skip
numbered = st.builds(
    lambda builtin, program: f"p4; {builtin} 'options[$({program})]'",
    st.sampled_from(
        ("exit", "return", "break", "continue", "shift", "test 1 -eq", "[ 1 -eq", "printf %d", "print -f %d")
    ),
    st.sampled_from(PROGRAMS),
)


def nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    frames = st.sampled_from(
        (
            "{0}; {1}", "{0} && {1}", "{0} || {1}", "{0} | {1}", "{0} |& {1}", "{0} & {1}", "({0})", "{{ {0}; }}",
            "$({0})", "`{0}`", 'p0 "$({0})"', "p0 <({0})", "x=$({0}) {1}", "if {0}; then {1}; fi",
            "while {0}; do {1}; break; done", "until {0}; do {1}; done", "for i in a b; do {0}; done",
            "case a in a) {0};; esac", "case a in ({0}) {1};; esac", "f() {{ {0}; }}; f", "f() ({0})\nf",
            "cat <<EOF\n$({0})\nEOF\n{1}", "cat <<'EOF'\n{0}\nEOF\n{1}", "cat <<-EOF\n`{0}`\n\tEOF\n{1}", "{0}\n{1}",
            "{0} \\\n {1}", "echo ${{y:-$({0})}}", "echo $(( 1 + $({0}) ))", "[[ -n $({0}) ]]", "true {0}",
            "{0} {1}", "({0}", '[ -n "$({0})" ] && {1}', "p4 # {0}\n{1}", "'{0}'", "echo \\\\`{0}`",
            "echo \\\\\\$({0})", 'echo "\\\\`{0}`"', "if {0}\nthen {1}\nfi",
        )
    )  # fmt: skip
    plain = st.builds(lambda frame, one, other: frame.format(one, other), frames, inner, inner)
    shells = st.sampled_from(("sh -c", "eval", "bash -c", "sh -ec", "sh -x -c", "env sh -c", "nohup sh -c"))
    coded = st.builds(lambda shell, code: f"{shell} {shlex.quote(code)}", shells, inner)
    return st.one_of(plain, plain, coded)


lines = st.recursive(st.one_of(commands, commands, commands, hiding, numbered), nest, max_leaves=5)


@pytest.mark.parametrize("shell", SHELLS)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(text=lines)
def test_no_program_runs_that_was_not_named(traced: Path, shell: str, text: str) -> None:
    line = parse_shell(text)
    if not line.clear or not all(part.literal for part in line.parts):
        return
    named = {os.path.basename(command.program) for command in line.commands}
    started = ran(traced, shell, text)
    assert started <= named, (text, started, named)
