"""What a call asks of its client meanwhile: a request of ours to an older client, `input_required` to a newer one.

A newer client (2026-07-28) cannot be sent requests: the call is left open, the client gets the question as a result together with
a sealed `requestState`, and repeats the call with its answer. The state says which open call it belongs to, for which agent,
tool and arguments, and until when; it is accepted once, and only by the process that sealed it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from interlock.detect import find_unseen
from interlock.executors.mcp.peer import RpcError
from interlock.lazy import lazy
from interlock.model.canonical import CanonicalError, digest
from interlock.model.json_rpc import INTERNAL_ERROR
from interlock.surfaces.gateway.callers import Caller

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives.ciphers import aead
else:
    exceptions, aead = lazy("cryptography.exceptions"), lazy("cryptography.hazmat.primitives.ciphers.aead")

OPEN_S: Final = 600.0
"""How long an open call waits for its client to come back."""
OPEN_MAX: Final = 256
_KEY_CHARS_MAX: Final = 128


class OpenCall:
    """A call of a newer client whose answers come with repetitions of it."""

    task: asyncio.Task[dict[str, Any]]
    """The call itself, once it has begun."""
    caller: Caller

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Not begun yet. `given` are answers that came with the call, each for the question of that key."""
        self._given = dict(given)
        self._asked: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._number = 0
        self._news = asyncio.Event()

    def begin(self, caller: Caller, call: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """Begin the call."""
        self.caller = caller
        self.task = asyncio.get_running_loop().create_task(call)
        self.task.add_done_callback(lambda _: self._withdraw())

    async def ask(self, method: str, params: dict[str, Any], key: str) -> dict[str, Any]:
        """Ask the client with its next answer, and wait for what it says. `key` is the question's name, if it is free."""
        if isinstance(said := self._given.pop(key, None), dict):
            return said
        self._number += 1
        if not key or len(key) > _KEY_CHARS_MAX or find_unseen(key) or key in self._asked:
            key = f"q{self._number}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[key] = ({"method": method, "params": params}, answer)
        self._news.set()
        try:
            return await answer
        finally:
            self._asked.pop(key, None)

    async def wait_news(self) -> dict[str, Any] | None:
        """Wait until the call has ended (None), or asks something: its questions by key. If cancelled, the call is too."""
        while True:
            self._news.clear()
            if self.task.done():
                return None
            waiting = {key: question for key, (question, answer) in self._asked.items() if not answer.done()}
            if waiting:
                return waiting
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait([news, self.task], return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()

    def answer(self, responses: Mapping[str, Any]) -> None:
        """Take the client's answers; a question without one counts as withdrawn."""
        for key, (_, answer) in list(self._asked.items()):
            response = responses.get(key)
            if answer.done():
                continue
            if isinstance(response, dict):
                answer.set_result(response)
            else:
                answer.set_exception(RpcError(INTERNAL_ERROR, "the client did not answer"))

    def _withdraw(self) -> None:
        """The call has ended: no answer to its questions can come any more."""
        for _, answer in self._asked.values():
            if not answer.done():
                answer.set_exception(RpcError(INTERNAL_ERROR, "the call for which this was asked has ended"))


class OpenCalls:
    """The open calls of one agent's clients, and the seal of their states."""

    def __init__(self, principal: str) -> None:
        """`principal` names the agent and session: a state of another is not accepted."""
        self._principal = principal.encode()
        self._key = secrets.token_bytes(32)
        self._open: dict[str, tuple[OpenCall, asyncio.TimerHandle]] = {}

    def keep(self, call: OpenCall, method: str, params: Mapping[str, Any]) -> str | None:
        """Leave a call open until its client comes back: the state to give it; None if too many are open."""
        if len(self._open) >= OPEN_MAX:
            return None
        loop = asyncio.get_running_loop()
        redeemed = secrets.token_hex(16)  # once: each state has another
        timer = loop.call_later(OPEN_S, self._expire, redeemed)
        self._open[redeemed] = (call, timer)
        sealed = {"call": redeemed, "of": _about(method, params), "until": loop.time() + OPEN_S}
        nonce = secrets.token_bytes(12)
        return base64.urlsafe_b64encode(
            nonce + aead.AESGCM(self._key).encrypt(nonce, json.dumps(sealed).encode(), self._principal)
        ).decode()

    def take(self, state: Any, method: str, params: Mapping[str, Any]) -> OpenCall | None:
        """The call that a state belongs to; None if it is not one of ours, was used, has expired, or is of another call."""
        try:
            data = base64.b64decode(state, altchars=b"-_", validate=True)
            found = json.loads(aead.AESGCM(self._key).decrypt(data[:12], data[12:], self._principal))
        except (exceptions.InvalidTag, ValueError, TypeError):
            return None
        if found["of"] != _about(method, params) or found["until"] < asyncio.get_running_loop().time():
            return None
        kept = self._open.pop(found["call"], None)
        if kept is None:
            return None
        call, timer = kept
        timer.cancel()
        return call

    async def close(self) -> None:
        """End the calls that are still open."""
        left = [call.task for call, _ in self._open.values()]
        for _, timer in self._open.values():
            timer.cancel()
        self._open.clear()
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    def _expire(self, key: str) -> None:
        kept = self._open.pop(key, None)
        if kept is not None:
            kept[0].task.cancel()


def _about(method: str, params: Mapping[str, Any]) -> str:
    """What a state is bound to: the call without what changes when it is repeated."""
    try:
        return digest("mcp_call", [method, params.get("name"), params.get("arguments")])
    except CanonicalError:  # such parameters are refused by the gate
        return ""
