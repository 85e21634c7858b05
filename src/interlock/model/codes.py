"""Every code a user can meet, with one sentence each. `docs/reference/codes.md` is generated from these tables.

`REASONS` explain the row of an action or the status of a proposal (`reason` in results and journal). `ERROR_CODES` explain
an error that stopped a command. Both are stable: a code is never renamed, and a new one is added here first.
"""

from __future__ import annotations

from typing import Final

REASONS: Final[dict[str, str]] = {
    # step 1
    "malformed_proposal": "The proposal could not be decoded or does not have the required shape.",
    "unknown_tool": "No tool of that name is registered.",
    "unsupported_invocation_mode": "Only `one_shot` actions are supported.",
    "dependency_unknown": "`dependencies` or a `$ID.output` reference names an action that is not in the proposal.",
    "dependency_cycle": "The actions wait for each other in a circle; the message names it.",
    "duplicate_id": "Two actions have the same id.",
    "limit_exceeded": "A limit of the proposal was exceeded; the message names the limit and its value.",
    # step 2 and 3
    "capability_denied": "No grant of the agent allows this tool.",
    "grant_missing": "The agent has no grant at all, so nothing is allowed.",
    "grant_expired": "The grant that would allow this has expired.",
    "grant_revoked": "The grant that would allow this was revoked.",
    "grant_used_up": "The grant that would allow this has no uses left.",
    "too_many_actions": "The grant's `actions_max` is lower than the number of actions in the proposal.",
    "state_key_denied": "No grant of the agent allows this state key.",
    "path_denied": "No grant of the agent allows this path, or it is one that Interlock's loader reads.",
    "host_denied": "No grant of the agent allows this host and port.",
    "unscoped_denied": "The tool marks no paths or hosts and reaches the world; the grant must name it `unscoped`.",
    "invalid_parameters": "The parameters do not fit the tool's schema; the message names the field.",
    "reference_failed": "A `$ID.output` reference points at something that the earlier output does not have.",
    # step 4
    "precondition_failed": "A precondition or an assumption on state does not hold.",
    "state_missing": "A key in `state_dependencies` is absent.",
    # step 5
    "policy_denied": "A policy forbids this, or none permits it (the default is to deny).",
    "policy_error": "A forbid policy could not be evaluated; that denies.",
    "approval_required": "The rules say `ask`, and nobody was there to answer.",
    # step 6
    "held": "Waiting for a human to approve.",
    "approval_denied": "A human denied it.",
    "approval_expired": "Nobody answered in time; that denies.",
    "approval_cancelled": "The question was withdrawn.",
    # step 7
    "budget_exceeded": "A budget (actions, tool calls, duration or cost) is used up.",
    "rate_limited": "The tool's rate limit would have to be waited for beyond the deadline.",
    "resource_guard": "The machine was over its CPU, memory, disk or zombie limit for longer than the guard waits.",
    # step 9
    "tool_failed": "The tool reported a failure.",
    "tool_error": "The tool raised an unexpected exception.",
    "invalid_output": "The tool returned something that is not JSON, too large, or not what its `returns` schema says.",
    "timeout": "The action ran longer than its time-out.",
    "deadline_exceeded": "The proposal's `deadline_ms` passed.",
    "assertion_failed": "The state did not have the asserted value.",
    "exit_code": "The process ended with a non-zero exit code and `check` is on.",
    "signalled": "The process was ended by a signal.",
    "spawn_failed": "The process could not be started; the message and `output.why` say why, and nothing has run.",
    "process_lost": "The process that watches over the action's processes was killed; they were ended with it.",
    "process_limit": "The action had more processes at once than its limit; all of them were ended.",
    "environment_denied": "The variable would make programs load code that the call does not name.",
    "process_protected": "Interlock itself, what it was started by, or a process that the machine needs: never signalled.",
    "process_gone": "There is no process of that number.",
    "process_changed": "The number belongs to another process now: it started at another time than the call says.",
    "process_foreign": "The process belongs to another user.",
    # step 10 and the end
    "state_conflict": "Another proposal changed a state key that this one had read.",
    "dependency_failed": "An action that this one depends on did not succeed.",
    "aborted": "An earlier action failed and its failure behaviour is to abort.",
    "cancelled": "The caller cancelled, or the process was asked to stop.",
    "interrupted": "The process ended before the action was finished.",
    "unknown_outcome": "The process died between intent and outcome; whether the action happened is not known.",
    "store_failed": "The journal or the database could not be written; nothing more was started.",
    "not_undone": "The action succeeded before its proposal was aborted, and could not be taken back; see `not_undone`.",
    "reserved": "The action is the compensation of another one and runs only to take that one back.",
    "dry_run": "Nothing was executed: this was a dry run.",
}

ERROR_CODES: Final[dict[str, str]] = {
    "internal": "A defect of Interlock. Please report it with the message and the run id.",
    "usage": "The command line or the call cannot be understood.",
    "not_found": "The named run, session, file or entry does not exist.",
    "configuration": "The configuration file is wrong; the path names the field.",
    "override_loosens": "An environment variable or a flag would loosen the configuration; only the file may.",
    "not_available": "The configuration asks for a protection that this version does not have, so nothing was started.",
    "invalid_schema": "A tool's JSON Schema cannot be used: not valid, beyond a limit, or it refers outside itself.",
    "invalid_tool": "A Python function cannot be a tool as it is written; the message says what to change.",
    "untrusted_configuration": "The configuration was changed since it was trusted; `interlock trust` shows the difference.",
    "tool_failed": "A tool reported a failure.",
    "store": "The state directory could not be written or read.",
    "disk_full": "The file system of the state directory has no space left. Nothing was acknowledged that is not on disk.",
    "read_only": "The state directory is on a read-only file system.",
    "permission_denied": "The state directory cannot be written by this user.",
    "too_many_files": "The process or the machine has no file descriptors left.",
    "disk_failed": "The device under the state directory reports an error.",
    "database_locked": "Another process holds the database for longer than we wait.",
    "database_damaged": "SQLite says that the database file is damaged.",
    "newer_database": "The database was written by a newer version of Interlock.",
    "integrity": "A journal or an archive is damaged, truncated or edited.",
    "run_locked": "Another live process writes this run's journal; the message names its pid.",
    "run_exists": "A run of that id exists already.",
    "needs_recovery": "The run's last process died while it wrote; `interlock recover` puts the journal in order first.",
    "journal_corrupt": "A journal is damaged before its end; it can be read up to the named offset and never written again.",
    "journal_truncated": "A journal ends before a point that the database or a signed head says it had reached.",
    "journal_rewritten": "A journal says something else than it did when the database or a signed head recorded it.",
    "private_damaged": "An original kept in a run's `private/` directory is damaged.",
    "bad_signature": "A signature does not belong to what it is said to sign.",
    "key_exposed": "The signing key's file can be read by other users.",
    "key_damaged": "The signing key's file does not hold an Ed25519 key.",
    "conflict": "Somebody else changed what this step started from.",
    "extra_missing": "A setting or command needs an optional extra that is not installed; the hint names the command.",
    # files
    "path_invalid": "A path parameter cannot be a path, or the file system does not take such a name.",
    "path_outside_workspace": "A path leads out of the workspace, by `..`, by being absolute, or through a symbolic link.",
    "path_protected": "The path is read by Interlock's loader, or holds what is; no agent may change it.",
    "path_changed": "A part of the path became a symbolic link or something else while it was used.",
    "symlink_loop": "Symbolic links lead to each other in a circle, or there are more than 40 in a row.",
    "special_file": "File tools do not touch FIFOs, sockets and devices.",
    "not_a_file": "A file was needed and a directory found.",
    "not_a_directory": "A directory was needed and something else found.",
    "already_exists": "Something of that name exists already.",
    "directory_not_empty": "The directory is not empty; `recursive` removes it with what is in it.",
    "cross_device": "Source and destination are on different file systems.",
    "access_denied": "The file system does not let this user do that.",
    "workspace_full": "The workspace's file system, or the user's quota, has no space left.",
    "file_busy": "The file is in use.",
    "file_failed": "The file system reported another error; the message is its own.",
    "file_changed": "Another program changed the file between the look at it and the change.",
    "file_too_large": "The file is larger than the tool takes in one piece.",
    "edit_mismatch": "The text to replace does not occur as often in the file as `count` says.",
    "encoding_invalid": "`content` is not what `encoding` says.",
    "pattern_invalid": "A pattern or a glob cannot be compiled.",
    "pattern_too_slow": "Matching the pattern took too long, or too much memory, and was stopped.",
    "workspace_missing": "The workspace's directory does not exist or cannot be opened.",
    "workspace_busy": "Another proposal is writing in this workspace; the message names it.",
    "state_dir_in_workspace": "The state directory lies inside the workspace, where agents could write it.",
    "workspace_in_state_dir": "The workspace lies inside the state directory.",
    "state_dir_unsafe": "The state directory belongs to another user, or is not a directory.",
    "undo_conflict": "Somebody else changed what undo would restore; nothing was restored. `--force` keeps a backup of it.",
    "undo_blocked": "Undo cannot restore a path because something else stands in its way; the message names it.",
    "backup_damaged": "A backup, or the index of a run's backups, is damaged; nothing was restored from it.",
    "backup_missing": "The content to restore is no longer kept.",
    # git
    "git_failed": "Git reported a failure; its own words are in the output.",
    "git_missing": "Git is not installed, or too old.",
    "not_a_repository": "There is no git repository at that place in the workspace.",
    "ref_invalid": "Not the name of a branch, tag or commit.",
    "url_refused": "The URL has a scheme, a form or a host that git tools do not connect to.",
    **{
        k: REASONS[k]
        for k in (
            "malformed_proposal",
            "duplicate_id",
            "dependency_unknown",
            "dependency_cycle",
            "limit_exceeded",
            "unknown_tool",
            "unsupported_invocation_mode",
            "state_conflict",
        )
    },
}

WARNINGS: Final[dict[str, str]] = {
    "unordered_writers": "Two actions write one state key, and only their place in the list says which one is last.",
    "repeated_call": "The same call of a tool that is not idempotent is made three times: this looks like a loop.",
    "unestablished_precondition": "No earlier action sets the state key of a precondition; the state must have it already.",
}
"""What `interlock verify` may warn of, besides the codes of `REASONS`."""
