"""Maps a coding agent's own tool uses to their runs; each is on disk before the agent may proceed.

So the agent's report of the end finds the run, even if it reaches another process than the one that allowed the use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.engine.services import Services
from interlock.lazy import lazy
from interlock.model.canonical import digest

if TYPE_CHECKING:
    from interlock.engine.runs import resume
    from interlock.engine.runs.unknown_outcomes import Answer
else:
    resume = lazy("interlock.engine.runs.resume")


class ClientUses:
    """The tool uses that were allowed and have not ended. Raises StoreError."""

    def __init__(self, services: Services) -> None:
        """Uses the store of calls of a workspace."""
        self._services = services

    def begin(self, client: str, session: str, use: str, run_id: str) -> None:
        """Remember the run of a use."""
        key = self._key(client, session, use)
        claim = self._services.calls.claim(key, run_id)
        if claim is not None:  # the client has used the id before, and did not report the outcome
            self._services.calls.forget(key, claim.run)
            self._services.calls.claim(key, run_id)

    def find(self, client: str, session: str, use: str) -> str | None:
        """The run of a use; None if none is known."""
        claim = self._services.calls.find(self._key(client, session, use))
        return None if claim is None else claim.run

    def end(self, client: str, session: str, use: str, run_id: str) -> None:
        """Forget the use."""
        self._services.calls.forget(self._key(client, session, use), run_id)

    async def settle(self, client: str, run_id: str, *, succeeded: bool) -> None:
        """Settle the run of a use from the client's report, which arrived after the process that had allowed it was gone.

        Raises: UsageError `not_found`, or `run_finished` if it is settled; `client_call` if no outcome is unknown; StoreError.
        """
        await self._services.load_tools()
        answer: Answer = "succeeded" if succeeded else "failed"
        answers = dict.fromkeys(resume.unknown_actions(self._services, run_id), answer)
        await resume.resume(self._services, run_id, answers, by=client, reported=True)

    def _key(self, client: str, session: str, use: str) -> str:
        about = [self._services.workspace_id, client, session, use]
        return self._services.redactor.keyed(digest("client_use", about))
