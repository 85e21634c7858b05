"""Stores holds and answers, grants and approvers, across processes and restarts (step 6).

- `store.ApprovalStore`: holds; `wait.Waiter`: waiting for their answers; `standing`: answers for more than one call
- `notify.Notifications` and `notifiers`: notifications
- `approvers.Approvers`: who may answer, tokens and PINs
- `grants.GrantStore`: issued grants, and the use counts of all grants
- `time.SharedTime`, `audit.Audit`: the time and the record that all of them share
"""

from typing import TYPE_CHECKING

from interlock.lazy import lazy_exports

if TYPE_CHECKING:
    from interlock.approvals.approvers import AccessError, ApproverRow, Approvers
    from interlock.approvals.audit import Audit, AuditRecord
    from interlock.approvals.grants import GrantStore, IssuedGrant
    from interlock.approvals.hold import (
        Approver,
        ChangeShown,
        FileShown,
        Hold,
        HoldRequest,
        Outcome,
        Standing,
        Vote,
        action_digest,
        canonical_digest,
        edited_digest,
        merge_patch,
        summary_line,
        with_effect,
        without_effect,
    )
    from interlock.approvals.notify import Notifications, Notifier, NotifyError
    from interlock.approvals.standing import StandingAnswer, StandingAnswers
    from interlock.approvals.store import ApprovalStore
    from interlock.approvals.time import SharedTime
    from interlock.approvals.wait import LocalWake, Waiter, Wake, WakeFile
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "AccessError": "approvers",
            "ApprovalStore": "store",
            "Approver": "hold",
            "ApproverRow": "approvers",
            "Approvers": "approvers",
            "Audit": "audit",
            "AuditRecord": "audit",
            "ChangeShown": "hold",
            "FileShown": "hold",
            "GrantStore": "grants",
            "Hold": "hold",
            "HoldRequest": "hold",
            "IssuedGrant": "grants",
            "LocalWake": "wait",
            "Notifications": "notify",
            "Notifier": "notify",
            "NotifyError": "notify",
            "Outcome": "hold",
            "SharedTime": "time",
            "Standing": "hold",
            "StandingAnswer": "standing",
            "StandingAnswers": "standing",
            "Vote": "hold",
            "Waiter": "wait",
            "Wake": "wait",
            "WakeFile": "wait",
            "action_digest": "hold",
            "canonical_digest": "hold",
            "edited_digest": "hold",
            "merge_patch": "hold",
            "summary_line": "hold",
            "with_effect": "hold",
            "without_effect": "hold",
        },
    )

__all__ = [
    "AccessError",
    "ApprovalStore",
    "Approver",
    "ApproverRow",
    "Approvers",
    "Audit",
    "AuditRecord",
    "ChangeShown",
    "FileShown",
    "GrantStore",
    "Hold",
    "HoldRequest",
    "IssuedGrant",
    "LocalWake",
    "Notifications",
    "Notifier",
    "NotifyError",
    "Outcome",
    "SharedTime",
    "Standing",
    "StandingAnswer",
    "StandingAnswers",
    "Vote",
    "Waiter",
    "Wake",
    "WakeFile",
    "action_digest",
    "canonical_digest",
    "edited_digest",
    "merge_patch",
    "summary_line",
    "with_effect",
    "without_effect",
]
