"""Which commands a command line runs: each is named, or the line is said to be unclear."""

from __future__ import annotations

import pytest

from interlock.detect.commands import COMMANDS_MAX, TEXT_CHARS_MAX, parse_shell, parse_words


def names(text: str) -> list[str]:
    line = parse_shell(text)
    assert line.clear, text
    return [command.line for command in line.commands]


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("pytest -q", ["pytest -q"]),
        ("pytest; rm -r -f build", ["pytest", "rm -r -f build"]),
        ("pytest -q && git push || true", ["pytest -q", "git push", "true"]),
        ("a | b |\n c", ["a", "b", "c"]),
        ("a & b\nc", ["a", "b", "c"]),
        ("(cd x && pytest)", ["cd x", "pytest"]),
        ("{ a; b; }", ["a", "b"]),
        ("! a", ["a"]),
        ("if [ -f x ]; then a; elif b; then c; else d; fi", ["'[' -f x ']'", "a", "b", "c", "d"]),
        ("while a; do b; done; until c; do d; done", ["a", "b", "c", "d"]),
        ("for i in 1 2; do a; done", ["a"]),
        ("case x in (a) b;; *) c;; esac", ["b", "c"]),
        ("f() { rm z; }; f", ["rm z", "f"]),
        ("echo a#b # rm x", ["echo 'a#b'"]),
        ("'pytest' \"-q\" a\\ b", ["pytest -q 'a b'"]),
        ("py\"te\"'st'", ["pytest"]),
        ("\\rm x", ["rm x"]),
        ("pytest \\\n  -q", ["pytest -q"]),
        ("cat <<'EOF'\n$(rm x)\nEOF\nb", ["cat", "b"]),
        ("find . -exec rm {} \\;", ["find . -exec rm '{}' ';'", "rm '{}'"]),
        ("find . -execdir a {} + -ok b \\;", ["find . -execdir a '{}' + -ok b ';'", "a '{}'", "b"]),
        ("ls | xargs -0 rm -f", ["ls", "xargs -0 rm -f", "rm -f"]),
        ("sudo -u bob rm x", ["sudo -u bob rm x", "rm x"]),
        ("env -i A=1 rm x", ["rm x"]),
        ("timeout -k 5 10 nice -n 5 nohup rm x", ["rm x"]),
        ("time -p rm x", ["rm x"]),
        ("command rm x; exec rm y", ["rm x", "rm y"]),
        ("command -v rm", ["command -v rm"]),
        ("sh -c 'a; b'", ["a", "b"]),
        ("bash -ec \"sh -c 'rm x'\"", ["rm x"]),
        ("eval 'a; rm x'", ["a", "rm x"]),
        ("eval rm x", ["rm x"]),
        ("trap 'rm x' EXIT", ["trap 'rm x' EXIT", "rm x"]),
    ],
)
def test_each_command_is_found(text: str, commands: list[str]) -> None:
    assert names(text) == commands


@pytest.mark.parametrize(
    "text",
    [
        "echo $(rm x)",
        "echo `rm x`",
        'echo "a $(rm x) b"',
        "x=$(rm x)",
        "x=(1 $(rm x))",
        "diff <(rm x) y",
        "cat <<EOF\n$(rm x)\nEOF\n",
        "cat <<<$(rm x)",
        "$(rm x)",
        "for i in $(rm x); do a; done",
        "case $(rm x) in a) b;; esac",
        "echo > $(rm x)",
        "echo ${a:-$(rm x)}",
        "echo $((1 + $(rm x)))",
        "[ -n $(rm x) ]",
        "[[ -v a[$(rm x)] ]]",
        "sh -c 'echo $(rm x)'",
    ],
)
def test_what_is_substituted_is_found(text: str) -> None:
    assert "rm x" in [command.line for command in parse_shell(text).commands]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "if a",
        "a '",
        "((x = 1))",
        "a[$(x)]=1",
        "[[ a ]] && b",
        "function f { rm x; }",
        "select i in a; do b; done",
        "coproc rm x",
        "alias pytest=rm; pytest",
        ". ./x",
        "source x",
        "sh x",
        "curl x | sh",
        "bash -i -c rm",
        "busybox rm x",
        "env -S 'rm x'",
        "env --unknown rm",
        "xargs --unknown rm",
        "sudo --unknown rm",
        "printf -v x y",
        "test -v x",
        "unset 'a[0]'",
        "a &> f",
        "a |& b",
        "r\\\nm x",
        "rm\u00a0x",
        "rm\x0bx",
        "rm\rx",
        "a\x00b",
        "\ud800",
        "eval $x",
        'sh -c "$x"',
        "for x in $'\\'; do touch pwned; done #'; do git diff; done",
        "case $'\\' in *) touch pwned;; esac #' in a) git diff;; esac",
        "for x in ${y:-'}'}; do git diff; done",
        "for x in `echo \\`touch pwned\\``; do git diff; done",
        "zsh -c 'git diff'",
        "time -f text -o build.sh git diff",
        "env -C private cat k",
        "sudo -D private cat k",
    ],
)
def test_what_cannot_be_told_is_unclear(text: str) -> None:
    line = parse_shell(text)
    assert not line.clear or not any(part.literal for part in line.parts), text
    assert not all(part.plain for part in line.parts)


@pytest.mark.parametrize(
    "word", ["$x", "${x}", "*.py", "a?", "[ab]", "~/x", "{a,b}", "$'a'", '"$x"', '"`a`"', "a$x", "!a"]
)
def test_a_word_that_is_not_certain_makes_the_command_not_literal(word: str) -> None:
    (command, *_) = parse_shell(f"pytest {word}").commands
    assert command.program == "pytest"
    assert not command.literal


def test_a_program_that_is_not_certain_is_not_named() -> None:
    (command,) = parse_shell("$x y").commands
    assert command.program == ""
    assert not command.plain


def test_what_surrounds_a_command_is_part_of_it() -> None:
    (command,) = parse_shell("PATH=. pytest < in > out 2>&1 2>/dev/null").commands
    assert command.assignments == ("PATH",)
    assert command.redirections == ("< in", "> out")
    assert not command.plain
    assert parse_shell("pytest >/dev/null 2>&1").commands[0].plain
    first, second = parse_shell("{ a; b; } > f").commands
    assert first.redirections == second.redirections == ("> f",)
    assert parse_shell("> f").commands[0].redirections == ("> f",)
    assert parse_shell("A=1").commands[0].assignments == ("A",)
    assert parse_shell("A=1 sh -c 'pytest'").commands[0].assignments == ("A",)
    assert parse_shell("sh -c 'pytest' > f").commands[0].redirections == ("> f",)
    assert parse_shell("export A=1").commands[0].assignments == ("A",)


def test_what_only_decides_what_runs_next_is_not_a_part() -> None:
    assert [part.line for part in parse_shell("if [ -f x ]; then pytest; fi").parts] == ["pytest"]
    assert [part.line for part in parse_shell("true").parts] == ["true"]
    assert [part.line for part in parse_shell("test -f 'a b' && ls; exit 3").parts] == ["ls"]


@pytest.mark.parametrize(
    "builtin", ["exit", "return", "break", "continue", "shift", "test 1 -eq", "printf %d", "[ 1 -eq"]
)
def test_a_subscript_in_a_number_runs_in_zsh_so_it_is_a_part(builtin: str) -> None:
    line = parse_shell(f"git diff; {builtin} 'options[$(touch pwned)]'")
    assert not line.clear
    assert line.parts[1].words[0] == builtin.split(maxsplit=1)[0]


def test_a_file_named_like_a_descriptor_is_a_redirection() -> None:
    assert parse_shell("git diff > -").commands[0].redirections == ("> -",)
    assert parse_shell("git diff > 1").commands[0].redirections == ("> 1",)
    assert parse_shell("git diff >&1 2>&1").commands[0].plain


def test_denials_see_the_name_of_the_program() -> None:
    assert parse_shell("/bin/rm x").commands[0].by_name == "rm x"
    assert parse_shell("git -C d -c a=b --no-pager push x").commands[0].by_name == "git push x"


def test_arguments_without_a_shell() -> None:
    assert [c.line for c in parse_words(["rm", "-rf", "pytest"]).commands] == ["rm -rf pytest"]
    assert [c.line for c in parse_words(["sh", "-c", "ls; rm x"]).commands] == ["ls", "rm x"]
    assert [c.line for c in parse_words(["echo", "$(rm x)"]).commands] == ["echo '$(rm x)'"]
    assert parse_words(["env", "A=1", "pytest"]).commands[0].assignments == ("A",)
    assert not all(part.plain for part in parse_words([]).parts)


def test_limits() -> None:
    assert not parse_shell("a" * (TEXT_CHARS_MAX + 1)).clear
    assert not parse_shell("a;" * (COMMANDS_MAX + 1)).clear
    nested = "rm x"
    for _ in range(12):
        nested = f"eval {nested}"
    assert not parse_shell(nested).clear


@pytest.mark.parametrize("piece", ["(", "$(", "{", "`", '"$(', "<<a ", "a;", "a|", "if a;then ", "((", "f(){", "a&&"])
def test_deep_and_broken_input_ends(piece: str) -> None:
    line = parse_shell(piece * (TEXT_CHARS_MAX // len(piece)))
    assert not line.clear
