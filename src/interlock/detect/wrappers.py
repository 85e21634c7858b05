"""Programs and builtins that start other commands, which are derived from their arguments.

A *transparent* program adds nothing of its own (`nice`, `env`, `sh -c`), so only the started command is judged. Others
(`sudo`, `xargs`, `find`) are judged beside it. If the arguments are not understood, the started command is unclear.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from interlock.lazy import lazy_pattern


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a wrapper starts."""

    words: tuple[str, ...]
    assignments: tuple[str, ...] = ()
    literal: bool = True
    """False if words are added at run time, as by `xargs`."""


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """What a command starts: other commands, and texts that a shell reads."""

    started: tuple[Started, ...] = ()
    code: tuple[str, ...] = ()
    transparent: bool = False
    clear: bool = True


_NOTHING: Final = Wrapped()
_UNCLEAR: Final = Wrapped(clear=False)
_SHELLS: Final = frozenset(("sh", "bash", "dash", "ash"))
_OPAQUE: Final = frozenset(
    (
        # builtins that read code, or change the meaning of a name
        ".", "source", "alias", "unalias", "enable", "hash", "bind", "complete", "compgen", "fc", "mapfile", "readarray",
        "coproc", "let", "select", "function", "[[", "getopts", "set", "shopt",
        # programs that start others, depending on their arguments
        "busybox", "toybox", "parallel", "script", "watch", "entr", "flock", "su", "runuser", "chroot", "unshare", "nsenter",
        "setpriv", "strace", "ltrace", "gdb", "systemd-run", "start-stop-daemon", "gosu", "su-exec", "pkexec",
        "dbus-run-session", "xvfb-run", "faketime", "fakeroot", "torify", "torsocks", "proxychains", "proxychains4", "unbuffer",
        "rlwrap", "taskset", "chpst", "numactl", "prlimit", "cpulimit", "linux32", "linux64", "setarch", "catchsegv", "bwrap",
        "firejail", "tmux", "screen", "at", "batch", "crontab", "run-parts", "expect", "capsh", "newgrp", "sg", "chrt",
        # shells whose language differs from the one that the parser knows
        "zsh", "ksh", "mksh", "yash", "rbash", "fish", "csh", "tcsh",
    )
)  # fmt: skip
_ASSIGNMENT: Final = lazy_pattern(r"([A-Za-z_][A-Za-z0-9_]*)=.*", re.DOTALL)


def unwrap(words: tuple[str, ...], *, literal: bool) -> Wrapped:
    """Returns what a command of these words starts; `literal` if all of them are certain."""
    name = words[0].rpartition("/")[2]
    if name in _OPAQUE or re.fullmatch(r"ld(-linux.*|-musl.*)?\.so.*", name):
        return _UNCLEAR
    reader = _READERS.get(name)
    if reader is None and name in _SHELLS:
        reader = _shell
    if reader is None:
        return _NOTHING
    found = reader(words[1:])
    return found if literal or found is _NOTHING else msgspec.structs.replace(found, clear=False)


def _options(words: tuple[str, ...], flags: str, valued: str, long: dict[str, bool]) -> int | None:
    """Returns how many words are options. `flags` and `valued` are one-letter options; `long` says which take a value.

    None if an option is unknown: the beginning of the command is then uncertain.
    """
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        at += 1
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            if name not in long:
                return None
            at += long[name] and not equals
            continue
        for place, letter in enumerate(word[1:], start=1):
            if letter in valued:
                at += place == len(word) - 1
                break
            if letter not in flags:
                return None
    return at if at <= len(words) else None


def _prefix(flags: str, valued: str, long: dict[str, bool], operands: int = 0) -> Callable[[tuple[str, ...]], Wrapped]:
    """Returns the reader of a transparent wrapper: options, a fixed number of operands, then the command."""

    def read(words: tuple[str, ...]) -> Wrapped:
        at = _options(words, flags, valued, long)
        if at is None:
            return _UNCLEAR
        inner = words[at + operands :]
        return Wrapped(started=(Started(words=inner),), transparent=True) if inner else _NOTHING

    return read


def _nice(words: tuple[str, ...]) -> Wrapped:
    if words and re.fullmatch(r"-\d+|--\d+", words[0]):
        words = words[1:]
    return _prefix("", "n", {"--adjustment": True})(words)


def _env(words: tuple[str, ...]) -> Wrapped:
    # Not `-C`: the words of the started command would mean other files.
    at = _options(words, "i0v", "u", {"--ignore-environment": False, "--unset": True, "--null": False})
    if at is None:
        return _UNCLEAR
    if at < len(words) and words[at] == "-":
        at += 1
    names = []
    while at < len(words) and (found := _ASSIGNMENT.fullmatch(words[at])):
        names.append(found[1])
        at += 1
    if at == len(words):
        return _NOTHING
    return Wrapped(started=(Started(words=words[at:], assignments=tuple(names)),), transparent=True)


def _sudo(words: tuple[str, ...]) -> Wrapped:
    at = _options(words, "nEHbSkKAP", "ugphCT", {"--non-interactive": False, "--user": True, "--group": True})
    if at is None:
        return _UNCLEAR
    names = []
    while at < len(words) and (found := _ASSIGNMENT.fullmatch(words[at])):
        names.append(found[1])
        at += 1
    return Wrapped(started=(Started(words=words[at:], assignments=tuple(names)),)) if words[at:] else _NOTHING


def _xargs(words: tuple[str, ...]) -> Wrapped:
    at = _options(
        words,
        "0rtxpo",
        "aEIdLnPs",
        {"--null": False, "--no-run-if-empty": False, "--verbose": False, "--max-args": True, "--max-procs": True},
    )
    if at is None:
        return _UNCLEAR
    inner = words[at:] or ("echo",)
    return Wrapped(started=(Started(words=inner, literal=False),))


def _find(words: tuple[str, ...]) -> Wrapped:
    started = []
    at = 0
    while at < len(words):
        if words[at] in ("-exec", "-execdir", "-ok", "-okdir"):
            end = next((i for i in range(at + 1, len(words)) if words[i] in (";", "+")), None)
            if end is None or end == at + 1:
                return _UNCLEAR
            inner = words[at + 1 : end]
            started.append(Started(words=inner, literal=not any("{}" in word for word in inner)))
            at = end
        at += 1
    return Wrapped(started=tuple(started))


def _shell(words: tuple[str, ...]) -> Wrapped:
    """Reads `sh -c CODE`; what a shell runs from a file or its standard input cannot be seen here."""
    if len(words) >= 2 and re.fullmatch(r"-[euxf]*c[euxf]*", words[0]) and not words[1].startswith(("-", "+")):
        return Wrapped(code=(words[1],), transparent=True)
    return Wrapped(clear=words in (("--version",), ("--help",)))


def _eval(words: tuple[str, ...]) -> Wrapped:
    return Wrapped(code=(" ".join(words),), transparent=True) if words else _NOTHING


def _trap(words: tuple[str, ...]) -> Wrapped:
    if not words or words[0] in ("-p", "-l", "-"):
        return _NOTHING
    words = words[1:] if words[0] == "--" else words
    return Wrapped(code=words[:1])


def _exec(words: tuple[str, ...]) -> Wrapped:
    if words and words[0].startswith("-"):
        return _UNCLEAR
    return Wrapped(started=(Started(words=words),), transparent=True) if words else _NOTHING


def _command(words: tuple[str, ...]) -> Wrapped:
    if words and re.fullmatch(r"-[vV]+", words[0]):
        return _NOTHING
    return _prefix("p", "", {})(words)


def _printf(words: tuple[str, ...]) -> Wrapped:
    return _UNCLEAR if words[:1] and words[0].startswith("-v") else _numbers(words)  # `-v 'a[$(x)]'` runs x


def _test(words: tuple[str, ...]) -> Wrapped:
    return _UNCLEAR if "-v" in words else _numbers(words)


def _numbers(words: tuple[str, ...]) -> Wrapped:
    """Reads `exit`, `test`, `printf` ...: where zsh expects a number, a subscript runs its text."""
    return _UNCLEAR if any("[" in word and ("$" in word or "`" in word) for word in words) else _NOTHING


def _names(words: tuple[str, ...]) -> Wrapped:
    """Reads `read`, `unset`, `export` ...: a name with a subscript runs the subscript's text."""
    return _UNCLEAR if any("[" in word or "$" in word or "`" in word for word in words) else _NOTHING


_READERS: Final[dict[str, Callable[[tuple[str, ...]], Wrapped]]] = {
    "[": _test,
    "break": _numbers,
    "builtin": _prefix("", "", {}),
    "command": _command,
    "continue": _numbers,
    "declare": _names,
    "doas": _sudo,
    "env": _env,
    "eval": _eval,
    "exec": _exec,
    "exit": _numbers,
    "export": _names,
    "find": _find,
    "ionice": _prefix("t", "cn", {"--class": True, "--classdata": True}),
    "local": _names,
    "nice": _nice,
    "nohup": _prefix("", "", {}),
    "print": _numbers,
    "printf": _printf,
    "read": _names,
    "readonly": _names,
    "return": _numbers,
    "setsid": _prefix("cfw", "", {"--ctty": False, "--fork": False, "--wait": False}),
    "stdbuf": _prefix("", "ioe", {"--input": True, "--output": True, "--error": True}),
    "sudo": _sudo,
    "shift": _numbers,
    "test": _test,
    "time": _prefix("p", "", {"--portability": False}),  # others write files
    "timeout": _prefix(
        "v",
        "ks",
        {"--kill-after": True, "--signal": True, "--foreground": False, "--preserve-status": False},
        operands=1,
    ),
    "trap": _trap,
    "typeset": _names,
    "unset": _names,
    "xargs": _xargs,
}
