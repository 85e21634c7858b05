"""Finds the simple commands that a command line runs, as far as possible without running it.

Rules such as `shell(git diff *)` are about simple commands, so a command line is taken apart: lists, pipes, substitutions,
subshells, functions, here-documents, and the programs that start other programs (`env`, `sudo`, `xargs`, `find -exec`, `sh
-c`, `eval` ...). Whatever is not certain counts as unclear: a variable, a file name pattern, syntax that shells read
differently. This is a convenience for people who write rules, not a wall: a named program may run any other.

The grammar is tree-sitter's for bash. `/bin/sh` is often another shell, so whatever the two may read differently is unclear.
"""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from interlock.detect.wrappers import Wrapped, unwrap
from interlock.lazy import lazy_pattern

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

TEXT_CHARS_MAX: Final = 16 * 1024
OPERATORS_MAX: Final = 1000
"""Maximum number of pipes, and of parentheses: the grammar takes quadratic time over these."""
COMMANDS_MAX: Final = 256
NESTING_MAX: Final = 8
"""Maximum depth to which `sh -c 'sh -c ...'` is followed."""

_HARMLESS: Final = frozenset((":", "true", "false", "test", "[", "exit", "return", "break", "continue"))
"""Builtins that only decide what runs next; ignored beside another command."""
_SAFE_TARGETS: Final = frozenset(("/dev/null", "/dev/stdout", "/dev/stderr"))
_CONTAINERS: Final = frozenset(
    (
        "program", "list", "pipeline", "redirected_statement", "subshell", "negated_command", "if_statement", "elif_clause",
        "else_clause", "while_statement", "for_statement", "do_group", "case_statement", "case_item", "function_definition",
        "command_substitution", "process_substitution", "command_name", "string", "concatenation", "heredoc_redirect",
        "heredoc_body", "herestring_redirect", "file_redirect", "array", "variable_assignment", "variable_assignments",
    )
)  # fmt: skip
"""Nodes whose children contain the commands; a node that is not listed makes the line unclear."""
_LEAVES: Final = frozenset(
    (
        "word", "number", "string_content", "raw_string", "variable_name", "simple_expansion", "expansion", "comment",
        "file_descriptor", "heredoc_start", "heredoc_content", "heredoc_end", "special_variable_name", "extglob_pattern",
    )
)  # fmt: skip
"""Not `ansi_c_string`: `$'\\'` ends in one shell where it goes on in another."""
_TOKENS: Final = frozenset((*"|&;\n!(){}<>$`\"'=,", "&&", "||", ";;", ">>", ">|", "<<", "<<-", "<<<", ">&", "<&", "$(", "<(",
                            ">(", "+=", "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "for", "in",
                            "case", "esac", "${", "export", "unset", "declare", "local", "readonly", "typeset"))  # fmt: skip
_UNCLEAR_TEXT: Final = lazy_pattern(
    r"[^\S \t\n]"  # white space that shells and the grammar may treat differently
    r"|[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]"
    r"|(?<![ \t])\\\n"  # a line continued in the middle of a word
    r"|&>|\|&|\bfunction\b|\bselect\b|\bcoproc\b|\[\[|\(\("
)
_SIMPLE: Final = ("command", "declaration_command", "unset_command", "test_command")
_GAP: Final = lazy_pattern(rb"(?:[ \t]|\\\n)*")
_PATTERN: Final = lazy_pattern(r"[*?\[\]{}~$`!^]|^=")
"""Characters that change the meaning of an unquoted word in one of the shells."""
_ASSIGNMENT: Final = lazy_pattern(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_VALUE: Final = lazy_pattern(r"(?!-v\Z)[\w./:=!@%+, -]*|\]")
"""A word in which no shell finds anything to run, where it takes the word as a number or as a variable's name."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One simple command. Uncertain words are kept as written, so that rules against them still match."""

    program: str
    """The first word, as written; empty if it is uncertain, or if there is none."""
    words: tuple[str, ...]
    """All words in order, starting with the program, without their quotes."""
    redirections: tuple[str, ...] = ()
    """Such as `> out.txt`; without those to /dev/null and between descriptors."""
    assignments: tuple[str, ...] = ()
    """Names of the variables that the command sets, or that are set for it."""
    literal: bool = True
    """True if every word is certain."""

    @property
    def name(self) -> str:
        """The program without its directory."""
        return self.program.rpartition("/")[2]

    @property
    def plain(self) -> bool:
        """True if the command has only certain words: no redirection to a file, no variable set."""
        return self.literal and not self.redirections and not self.assignments

    @property
    def harmless(self) -> bool:
        """True if the command only decides what runs next, in every shell. zsh evaluates the arguments of `exit` and the like."""
        return self.plain and self.program in _HARMLESS and all(map(_VALUE.fullmatch, self.words[1:]))

    @property
    def line(self) -> str:
        """Returns the words quoted for a shell, with one space between them."""
        return shlex.join(self.words)

    @property
    def by_name(self) -> str:
        """Returns `line` with the bare name of the program, and without git's options before its subcommand. Denials use it."""
        if not self.words or not self.program:
            return self.line
        rest = self.words[1:]
        if self.name == "git":
            rest = _after_git_options(rest)
        return shlex.join((self.name, *rest))


class CommandLine(msgspec.Struct, frozen=True, kw_only=True):
    """The commands of a command line. If it is not `clear`, it may run others too."""

    commands: tuple[Command, ...]
    clear: bool

    @property
    def parts(self) -> tuple[Command, ...]:
        """Returns the commands that rules judge one by one.

        Never empty; an unclear part counts as one more command, without words.
        """
        decisive = tuple(command for command in self.commands if not command.harmless)
        found = decisive or self.commands
        return found if self.clear and found else (*found, UNCLEAR)


UNCLEAR: Final = Command(program="", words=(), literal=False)


def parse_shell(text: str, depth: int = 0) -> CommandLine:
    """Returns the commands of a text that is passed to `sh -c`."""
    operators = max(text.count("|"), text.count("("))
    if len(text) > TEXT_CHARS_MAX or operators > OPERATORS_MAX or depth > NESTING_MAX:
        return CommandLine(commands=(), clear=False)
    reader = _Reader(text, depth)
    reader.read()
    return CommandLine(commands=tuple(reader.commands), clear=reader.clear)


def parse_words(words: Sequence[str], depth: int = 0) -> CommandLine:
    """Returns the commands of a program that is started with these arguments, without a shell."""
    reader = _Reader("", depth)
    reader.add(Command(program=words[0] if words else "", words=tuple(words), literal=bool(words)))
    return CommandLine(commands=tuple(reader.commands), clear=reader.clear)


class _Reader:
    """Takes one text apart."""

    def __init__(self, text: str, depth: int) -> None:
        self._source = text.encode("utf-8", "surrogatepass")
        self._depth = depth
        self.clear = _UNCLEAR_TEXT.search(text) is None
        self.commands: list[Command] = []

    def read(self) -> None:
        """Find all commands, in the order of the text."""
        root = shell_parser().parse(self._source).root_node
        if root.has_error:
            self.clear = False
        stack: list[tuple[Node, tuple[str, ...]]] = [(root, ())]
        while stack:
            node, outer = stack.pop()
            if node.type in _SIMPLE or node.type == "redirected_statement":
                self._check_gaps(node)
            if node.type in _SIMPLE:
                inner = self._simple(node, outer)
                if node.type == "test_command" and self.commands and self.commands[-1].literal:
                    continue  # its operators have their own nodes, and nothing in it can run
            elif node.type == "redirected_statement":
                outer = (*outer, *self._redirections(node))
                inner = outer
                if node.child_by_field_name("body") is None:
                    self.add(Command(program="", words=(), redirections=outer))
            else:
                inner = outer
                self._look(node)
            if len(self.commands) > COMMANDS_MAX:
                self.clear = False
                return
            stack.extend((child, inner) for child in reversed(node.children))

    def _check_gaps(self, node: Node) -> None:
        """Require nothing but blanks between the words of a command: the grammar sometimes reads across the end of a line."""
        for one, other in itertools.pairwise(node.children):
            if _GAP.fullmatch(self._source, one.end_byte, other.start_byte) is None:
                self.clear = False

    def add(self, command: Command) -> None:
        """Record a command, or what it starts if it does nothing else."""
        wrapped = unwrap(command.words, literal=command.literal) if command.program else Wrapped()
        if not wrapped.transparent:
            self.commands.append(command)
        if not wrapped.clear:
            self.clear = False
        for inner in wrapped.started:
            name = inner.words[0] if inner.words else ""
            started = Command(
                program=name,
                words=inner.words,
                literal=inner.literal and command.literal,
                redirections=command.redirections,
                assignments=(*command.assignments, *inner.assignments),
            )
            if self._depth >= NESTING_MAX or len(self.commands) > COMMANDS_MAX:
                self.clear = False
                return
            self._depth += 1
            self.add(started)
            self._depth -= 1
        for code in wrapped.code:
            below = parse_shell(code, self._depth + 1)
            self.clear = self.clear and below.clear
            self.commands.extend(
                msgspec.structs.replace(
                    each,
                    redirections=(*command.redirections, *each.redirections),
                    assignments=(*command.assignments, *each.assignments),
                    literal=each.literal and command.literal,
                )
                for each in below.commands
            )

    def _look(self, node: Node) -> None:
        """Mark the line unclear if the meaning of this kind of node is unknown."""
        known = _CONTAINERS if node.is_named else _TOKENS
        if node.type == "compound_statement" and node.children and node.children[0].type == "{":
            return  # but `(( ... ))` is arithmetic, which can run the text of a subscript
        if node.type not in known and not (node.is_named and node.type in _LEAVES):
            self.clear = False
        elif node.type == "variable_assignment" and (parent := node.parent) is not None:
            if parent.type not in ("command", "declaration_command"):
                self.add(Command(program="", words=(), assignments=(self._target(node),)))
        elif node.type == "word":
            self.clear = self.clear and not re.search(r"(?<!\\)\s", self._text(node))  # so does a word after a comment
        elif node.type == "comment":
            self.clear = self.clear and not set("\n\\") & set(
                self._text(node)
            )  # the grammar lets some comments continue in the next line
        elif node.type == "heredoc_redirect":
            # shells and the grammar disagree about a here-document whose end is not quoted
            end = next((self._text(child) for child in node.children if child.type == "heredoc_start"), "")
            self.clear = self.clear and (bool(set("'\"\\") & set(end)) or not set("`$\\") & set(self._text(node)))
        elif node.type == "command_substitution" and self._text(node).startswith("`"):
            self.clear = self.clear and "\\" not in self._text(
                node
            )  # within backquotes, backslashes are taken away first
        elif node.type in ("expansion", "extglob_pattern"):
            # Shells differ about what quotes within an expansion enclose.
            self.clear = self.clear and not set("[@!('\"\\") & set(self._text(node))

    def _simple(self, node: Node, outer: tuple[str, ...]) -> tuple[str, ...]:
        """Record a simple command. Returns the redirections that apply to what its words substitute: none."""
        words: list[str] = []
        assignments: list[str] = []
        literal = True
        if node.type == "test_command":
            words = self._text(node).split()
            literal = (
                words[:1] == ["["]
                and not re.search(r"[^\w./:=-]", " ".join(words[1:-1]).replace(" ", ""))
                and "-v" not in words
            )
        else:
            for child in node.children:
                if child.type == "variable_assignment":
                    assignments.append(self._target(child))
                elif child.type in ("file_redirect", "herestring_redirect", "heredoc_redirect"):
                    outer = (*outer, *self._redirection(child))
                elif child.type != "comment":
                    value = self._word(child)
                    literal = literal and value is not None
                    words.append(self._text(child) if value is None else value)
        program = words[0] if words else ""
        if words and node.type == "command" and self._word(self._first_word(node)) is None:
            program = ""
        self.add(
            Command(
                program=program,
                words=tuple(words),
                redirections=outer,
                assignments=tuple(assignments),
                literal=literal and (bool(program) or not words),
            )
        )
        return ()

    @staticmethod
    def _first_word(node: Node) -> Node:
        return node.child_by_field_name("name") or node

    def _target(self, node: Node) -> str:
        name = node.child_by_field_name("name")
        text = self._text(name) if name is not None else ""
        if not _ASSIGNMENT.fullmatch(f"{text}="):
            self.clear = False  # a subscript can run commands
        return text

    def _redirections(self, node: Node) -> tuple[str, ...]:
        return tuple(found for child in node.children_by_field_name("redirect") for found in self._redirection(child))

    def _redirection(self, node: Node) -> tuple[str, ...]:
        """Returns a redirection as rules see it, or nothing if it reaches no file."""
        if node.type != "file_redirect":
            return ()  # the text itself is read, and the commands in it are found
        target = node.child_by_field_name("destination")
        operator = next((child.type for child in node.children if not child.is_named), "")
        value = self._word(target) if target is not None else None
        if target is None or len(node.children_by_field_name("destination")) != 1:
            self.clear = False
        if value in _SAFE_TARGETS or (value in ("-", "0", "1", "2") and operator in (">&", "<&")):
            return ()
        written = value if value is not None else self._text(target) if target is not None else ""
        return (f"{operator} {written}",)

    def _text(self, node: Node) -> str:
        return self._source[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def _word(self, node: Node) -> str | None:
        """Returns the value of a word without its quotes, or None if it is uncertain."""
        text = self._text(node)
        if text == "{}":
            return text
        match node.type:
            case "command_name":
                children = node.children
                return self._word(children[0]) if len(children) == 1 else None
            case "word" | "number" | "variable_name":
                return _unescaped(text)
            case "raw_string":
                return text[1:-1]
            case "string":
                plain = all(child.type in ("string_content", '"') for child in node.children)
                return _double_quoted(text[1:-1]) if plain else None
            case "concatenation":
                parts = [self._word(child) for child in node.children]
                whole = sum(child.end_byte - child.start_byte for child in node.children)
                if None in parts or whole != node.end_byte - node.start_byte:
                    return None
                return "".join(part for part in parts if part is not None)
            case _:
                return text if not node.is_named and text.isalpha() else None  # `export`, `unset` ...


def _unescaped(text: str) -> str | None:
    bare = re.sub(r"\\.", "", text, flags=re.DOTALL)
    if _PATTERN.search(bare) or bare.endswith("\\"):
        return None
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _double_quoted(text: str) -> str | None:
    if re.search(r"[$`]", re.sub(r"\\.", "", text, flags=re.DOTALL)):
        return None
    return re.sub(r'\\([$`"\\])', r"\1", text)


_GIT_VALUES: Final = frozenset(("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env"))


def _after_git_options(words: tuple[str, ...]) -> tuple[str, ...]:
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _GIT_VALUES else 1
    return words[at:]


@functools.cache
def shell_parser() -> Parser:
    """Returns the parser for bash's grammar."""
    # Loaded by the first rule about commands: importing the grammar takes longer than the rest of the start-up.
    import tree_sitter_bash  # noqa: PLC0415
    from tree_sitter import Language, Parser  # noqa: PLC0415

    return Parser(Language(tree_sitter_bash.language()))
