"""The definitions of the built-in file tools.

Their functions are in `file_reads.py`, `file_search.py` and `file_changes.py`. All of them work beneath `ctx.workspace`.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from interlock.executors import file_changes, file_previews, file_reads, file_search
from interlock.executors.encodings import ENCODINGS
from interlock.executors.file_dry_runs import Change, MayRead, with_difference
from interlock.model.tool import Binding, Function, Preview, Tool, Writes

_PREVIEWS: Final[dict[str, Preview]] = {
    "fs.write": file_previews.write,
    "fs.edit": file_previews.edit,
    "fs.delete": file_previews.delete,
}
_PATH_FORMS: Final = [
    {"type": "string", "minLength": 1},
    {
        "type": "object",
        "properties": {"b64": {"type": "string", "description": "The name's bytes in base64, if they are not UTF-8."}},
        "required": ["b64"],
        "additionalProperties": False,
    },
]
_NAME: Final = {"anyOf": _PATH_FORMS}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_FLAG: Final = {"type": "boolean", "default": False}
_SHA256: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TEXT_ENCODING: Final = {
    "enum": list(ENCODINGS),
    "description": "The file's encoding, if it has no byte order mark and is not UTF-8.",
}
_OLD: Final = {
    "type": "string",
    "minLength": 1,
    "description": "The text to replace. LF matches the file's own line endings.",
}
_NEW: Final = {"type": "string", "description": "The replacement, written with the file's line endings."}
_TIMES: Final = {"type": "integer", "minimum": 1, "default": 1, "description": "How many times `old` occurs."}
_EDITS_MAX: Final = 1_000
_MATCH: Final = {
    "path": _NAME,
    "line": _COUNT,
    "column": {**_COUNT, "description": "Column of the match in the line, in characters, from 1."},
    "text": {"type": "string", "description": "The line, or the part around the match if it is long."},
}
_GLOB: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 4096,
    "description": "Relative to `path`: `*` and `?` stay within a name, `**` crosses directories, `{a,b}` is either; "
    "without `/`, any depth.",
}


def bindings(may_read: MayRead) -> list[Binding]:
    """Returns the tools `fs.read`, `fs.list`, `fs.search`, `fs.write`, `fs.edit`, `fs.delete` and `fs.move`.

    `may_read` returns whether the agent may read a file, which decides whether a dry run shows its content.
    """
    changing = []
    for binding in _changing():
        if (preview := binding.preview) is not None:
            function = with_difference(cast("Change", binding.function), preview, may_read)
            changing.append(msgspec.structs.replace(binding, function=function))
        else:
            changing.append(binding)
    return [*_reading(), *changing]


def _reading() -> list[Binding]:
    return [
        _binding(
            "fs.read",
            "Read a file, or a page of it: pages begin and end with whole characters. Binary content comes as base64.",
            file_reads.read,
            {
                "path": _path("read", "The file; a link inside the workspace is followed."),
                "offset": {**_COUNT, "default": 0, "description": "Number of bytes to skip."},
                "max_bytes": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": file_reads.READ_BYTES_MAX,
                    "default": file_reads.READ_BYTES,
                },
                "encoding": _TEXT_ENCODING,
            },
            ["path"],
            {
                "content": _TEXT,
                "encoding": {"enum": [*ENCODINGS, "base64"]},
                "offset": {
                    **_COUNT,
                    "description": "Offset in the file where `content` begins, at a character boundary.",
                },
                "next_offset": {
                    "type": ["integer", "null"],
                    "description": "`offset` of the next page; null at the end.",
                },
                "size": {**_COUNT, "description": "Size of the whole file, in bytes."},
                "truncated": {"type": "boolean", "description": "True if there is more after what was read."},
                "sha256": {
                    "type": ["string", "null"],
                    "description": f"SHA-256 of the whole file; null above {file_reads.HASHED_BYTES_MAX} bytes.",
                },
            },
        ),
        _binding(
            "fs.list",
            f"List a directory, names sorted, at most {file_reads.ENTRIES_MAX} entries. Links are not followed.",
            file_reads.list_,
            {"path": {**_path("read", "The directory."), "default": "."}, "recursive": _FLAG, "glob": _GLOB},
            [],
            {
                "entries": _rows(
                    {
                        "path": _NAME,
                        "type": {"enum": ["file", "dir", "symlink", "special"]},
                        "size": _COUNT,
                        "mode": {"type": "string", "description": "Permission bits, octal."},
                        "mtime": {"type": "integer", "description": "Microseconds since the epoch."},
                    }
                ),
                "truncated": {"type": "boolean"},
            },
        ),
        _binding(
            "fs.search",
            "Find the lines that match a Python regular expression. Binary files and `.git` are left out.",
            file_search.search,
            {
                "pattern": {"type": "string", "minLength": 1, "maxLength": 4096},
                "path": {**_path("read", "A file, or a directory to search."), "default": "."},
                "glob": _GLOB,
                "max_matches": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": file_search.MATCHES_MAX,
                    "default": file_search.MATCHES,
                },
            },
            ["pattern"],
            {"matches": _rows(_MATCH), "truncated": {"type": "boolean"}},
        ),
    ]


def _changing() -> list[Binding]:
    return [
        _binding(
            "fs.write",
            "Make or replace a file as a whole, or append to it. Missing directories are made.",
            file_changes.write,
            {
                "path": _path("write", "The file; a link inside the workspace is followed."),
                "content": _TEXT,
                "encoding": {
                    "enum": [*ENCODINGS, "base64"],
                    "description": "By default that of the present file's byte order mark, which is kept, else UTF-8.",
                },
                "append": _FLAG,
            },
            ["path", "content"],
            {"size": _COUNT, "sha256": _SHA256, "created": {"type": "boolean"}},
        ),
        _binding(
            "fs.edit",
            "Replace texts in a file, all of them or none. Fails unless each `old` occurs exactly `count` times. The file "
            "keeps its encoding and line ends.",
            file_changes.edit,
            {
                "path": _path("write", "The file; a link inside the workspace is followed."),
                "old": _OLD,
                "new": _NEW,
                "count": _TIMES,
                "edits": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": _EDITS_MAX,
                    "items": _object({"old": _OLD, "new": _NEW, "count": _TIMES}, ["old", "new"]),
                    "description": "Several replacements instead of `old` and `new`, applied in order.",
                },
                "encoding": _TEXT_ENCODING,
            },
            ["path"],
            {"replacements": _COUNT, "encoding": {"enum": list(ENCODINGS)}, "sha256": _SHA256},
        ),
        _binding(
            "fs.delete",
            "Delete a file, a link, or a directory (with its contents only if `recursive`).",
            file_changes.delete,
            {"path": _path("write", "What to delete; a link itself, not its target."), "recursive": _FLAG},
            ["path"],
            {"deleted": {**_COUNT, "description": "Number of files, links and directories."}},
        ),
        _binding(
            "fs.move",
            "Rename a file, a link or a directory. Nothing is overwritten; missing directories are made.",
            file_changes.move,
            {
                "source": _path("write", "What to move; a link itself, not its target."),
                "destination": _path("write", "Its new path, which must not exist."),
            },
            ["source", "destination"],
            {"moved": {**_COUNT, "description": "Number of files, links and directories."}},
        ),
    ]


def _binding(
    name: str,
    description: str,
    function: Function,
    parameters: dict[str, Any],
    required: list[str],
    returns: dict[str, Any],
) -> Binding:
    read_only = not any(part.get("x-interlock") == "path.write" for part in parameters.values())
    tool = Tool(
        name=name,
        description=description,
        parameters=_object(parameters, required),
        returns=_object(returns, list(returns)),
        read_only=read_only,
        destructive=not read_only,
        open_world=False,
        reversibility="reversible",
        supports_dry_run=not read_only,
        tags=("files", "read_only") if read_only else ("files",),
    )
    writes: Writes = "nothing" if read_only else "marked"
    return Binding(
        tool=tool,
        function=function,
        mode="thread",
        writes=writes,
        preview=_PREVIEWS.get(name),
        one_file=name in ("fs.write", "fs.edit"),
    )


def _path(access: str, description: str) -> dict[str, Any]:
    return {"anyOf": _PATH_FORMS, "x-interlock": f"path.{access}", "description": description}


def _rows(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": _object(properties, list(properties))}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
