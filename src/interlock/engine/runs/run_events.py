"""The events of a run as a whole: its start, its resumptions, the proposals that it receives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import msgspec

from interlock._version import __version__
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.record.recorder import Recorder
from interlock.engine.services import Services
from interlock.model.errors import ProposalError
from interlock.model.events import (
    FORMAT_VERSION,
    ConfigurationChanged,
    ProposalReceived,
    ProposalRejected,
    RunResumed,
    RunStarted,
)
from interlock.model.proposal import ToolCompensation

_RECEIVED_S: Final = 0.02
"""How long a received proposal may wait for the next write of the journal."""


def record_start(services: Services, recorder: Recorder, run_id: str, agent: str, session: str | None) -> None:
    """The first event of a journal. Raises: StoreError."""
    recorder.record(
        RunStarted(
            version=FORMAT_VERSION,
            run=run_id,
            interlock=__version__,
            workspace=services.workspace_id,
            agent=agent,
            session=session,
            configuration=services.judges.configuration,
            durability=services.durability,
            pid=os.getpid(),
            boot=services.boot,
        )
    )
    recorder.writer.flush(synced=False)  # nothing has to be durable before the first intent


def record_resumption(services: Services, recorder: Recorder) -> None:
    """Record that another process continues the run."""
    recorder.record(RunResumed(pid=os.getpid(), boot=services.boot, configuration=services.judges.configuration))


def record_configuration(services: Services, recorder: Recorder, problem: str | None) -> None:
    """Record that the configuration was edited; with a `problem` the old rules stay in force."""
    recorder.record(
        ConfigurationChanged(
            configuration=services.judges.configuration,
            problem=None if problem is None else recorder.text(problem),
        )
    )


def record_received(run: ProposalRun, token_digest: str | None = None) -> None:
    """Record a well-formed proposal: its document, without the values that the tools' schemas mark as secret."""

    def received(recorder: Recorder) -> ProposalReceived:
        kept = recorder.keep(msgspec.to_builtins(run.proposal), list(_secrets(run)))
        return ProposalReceived(
            source=run.proposal.source,
            agent=run.principal.agent,
            action_count=len(run.proposal.actions),
            digest=kept.digest,
            document=kept,
            dry_run=run.dry_run,
            grant_token=run.token,
            grant_token_digest=token_digest,
        )

    if run.recorder is not None:
        run.record(1, None, received)
        # The first intent, or a short proposal's end, writes it. Others see a longer one without an intent soon enough.
        run.loop.call_later(_RECEIVED_S, run.kick)


def record_rejected(recorder: Recorder, proposal_id: str, error: ProposalError) -> None:
    """Record a malformed proposal. Raises: StoreError."""
    event = ProposalRejected(code=error.code, message=recorder.text(error.message), path=error.path)
    recorder.record(event, proposal_id, step=1)
    recorder.writer.flush()


def _secrets(run: ProposalRun) -> Iterator[str]:
    """Pointers to the values in the proposal's document that the tools' schemas mark as secret."""
    for index, action in enumerate(run.proposal.actions):
        tool, given = run.tools[index], action.compensation
        if tool is not None and tool.secrets:
            yield from (f"/actions/{index}/parameters{pointer}" for pointer in tool.secrets)
        if isinstance(given, ToolCompensation) and (other := run.services.registry.find(given.tool)) is not None:
            yield from (f"/actions/{index}/compensation/parameters{pointer}" for pointer in other.secrets)
