"""Grant tokens: a grant for a sub-agent on another machine, which can narrow it without contacting Interlock.

A token is a chain of DSSE envelopes. The first, signed with the state directory's key, names the grant, the agent and the
workspace it is for. Each block names the public key that must sign the next one; the token contains the private half of the
last. So a holder can add a block but cannot remove one: that would need a key that its predecessor has discarded. A block can
only restrict: as a grant it is a child of the previous block, and `compile_grants` checks all of them.

As text, a token is `igt1_` and the base64url of its JSON. It has exactly one spelling, and is a secret: anyone who has
it can use it. Its id (that of its last block) and its digest are not secret. Pure: time and keys are arguments.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NoReturn, TypeVar

import msgspec

from interlock.model import typed
from interlock.model.canonical import canonical, digest, digest_bytes
from interlock.model.errors import InterlockError, UsageError
from interlock.model.grant import TOKEN, Grant, Paths, Restriction
from interlock.signing import Envelope, Signer, verify

PREFIX: Final = "igt1_"
TOKEN_CHARS_MAX: Final = 64 * 1024
BLOCKS_MAX: Final = 16
_ROOT_TYPE: Final = "application/vnd.interlock.grant-token.v1+json"
_BLOCK_TYPE: Final = "application/vnd.interlock.grant-token-block.v1+json"

T = TypeVar("T")


class GrantTokenError(UsageError):
    """A grant token was not accepted. Codes: `bad_grant_token`, `grant_token_audience`, `grant_token_expired`, ..."""

    default_code = "bad_grant_token"


class Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first block: the issuer's claims."""

    audience: str
    """Id of the workspace for which the token is valid."""
    grant: str
    """Id of the grant that the token is for."""
    agent: str
    """The agent that the holder acts as."""
    issued_at_us: int
    restriction: Restriction
    next_key: str
    """`ed25519:HEX`, the key that signs the next block."""


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A later block: what a holder removed before handing the token on."""

    previous: str
    """Id of the previous block."""
    restriction: Restriction
    next_key: str


class TokenText(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the text: the chain, and the private key for its last `next_key`, in hex."""

    blocks: tuple[Envelope, ...]
    secret: str


class GrantToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that has been read. Contains no secret, and nothing from which another token could be made."""

    id: str
    """Id of the last block, `token_` and 32 hex digits; revoking any block's id ends the token."""
    digest: str
    """Digest of all blocks, without the secret."""
    root: Root
    grants: tuple[Grant, ...]
    """One grant for each block, each the child of the previous one; the first is a child of `root.grant`."""

    @property
    def expires_at_us(self) -> int:
        """The time from which the token is refused."""
        return self.grants[-1].expires_at_us or 0


def make_token(root: Root, issuer: Signer, holder: Signer) -> str:
    """Returns a new token, signed with the state directory's key; `holder` is a key generated for it (`Signer.generate`).

    `root.next_key` is set to that key. Raises: GrantTokenError if it does not expire, or if one of its limits is out of
    bounds.
    """
    root = msgspec.structs.replace(root, restriction=_sensible(root.restriction), next_key=holder.keyid)
    text = _write((_sign(issuer, _ROOT_TYPE, root),), holder)
    read_token(text)
    return text


def attenuate_token(text: str, restriction: Restriction, holder: Signer) -> str:
    """Returns the token with one more block, which can only restrict; `holder` is a key generated for it (`Signer.generate`).

    Needs neither Interlock's key nor its machine. Raises: GrantTokenError if `text` is not intact, or the token would
    become too long.
    """
    before, content = _read(text, None)
    block = Block(previous=before.id, restriction=_sensible(restriction), next_key=holder.keyid)
    envelope = _sign(Signer.from_secret(content.secret), _BLOCK_TYPE, block)
    narrower = _write((*content.blocks, envelope), holder)
    read_token(narrower)
    return narrower


def read_token(text: str) -> GrantToken:
    """Returns the claims of a token. Checks only its form, not the issuer's signature. Raises: GrantTokenError."""
    return _read(text, None)[0]


def verify_token(text: str, *, key: str, audience: str, now_us: int) -> GrantToken:
    """Returns the token, if it is valid at `now_us`. `key` is the `ed25519:HEX` of the only trusted issuer.

    Raises: GrantTokenError: `bad_grant_token` if it was not made with `key` or was changed since,
    `grant_token_audience`, `grant_token_expired`. The caller must check whether a block of it was revoked.
    """
    token, _ = _read(text, key)  # 1: every signature, from the issuer's key to the holder's
    if token.root.audience != audience:  # 2
        raise GrantTokenError(
            "the grant token is for another workspace",
            code="grant_token_audience",
            hint="present it where it was issued",
        )
    if now_us >= token.expires_at_us:  # 3
        raise GrantTokenError(
            "the grant token has expired",
            code="grant_token_expired",
            hint="`interlock grants token` issues another",
        )
    return token


def _read(text: str, key: str | None) -> tuple[GrantToken, TokenText]:
    """Follow the chain of keys through the blocks. Without `key`, the first block's own key is used, which proves nothing."""
    content = _unwrap(text)
    if not 0 < len(content.blocks) <= BLOCKS_MAX:
        _refuse(f"it has no blocks, or more than {BLOCKS_MAX}")
    first, *later = content.blocks
    root, block_id = _open(first, _ROOT_TYPE, Root, key)
    grants = [_as_grant(block_id, root.agent, root.grant, root.restriction, None)]
    if grants[0].expires_at_us is None:
        _refuse("it does not expire")
    ids, next_key = [block_id], root.next_key
    for envelope in later:
        block, block_id = _open(envelope, _BLOCK_TYPE, Block, next_key)
        if block.previous != ids[-1]:
            _refuse("a block belongs to another token")
        grants.append(_as_grant(block_id, root.agent, ids[-1], block.restriction, grants[-1].expires_at_us))
        ids.append(block_id)
        next_key = block.next_key
    try:
        holder = Signer.from_secret(content.secret).keyid
    except UsageError:
        _refuse("it is damaged")
    if holder != next_key:
        _refuse("blocks were cut off")
    return GrantToken(id=ids[-1], digest=digest("grant-token", ids), root=root, grants=tuple(grants)), content


def _open(envelope: Envelope, kind: str, form: type[T], key: str | None) -> tuple[T, str]:
    """Returns the payload of an envelope that `key` signed, and the id of its block."""
    if len(envelope.signatures) != 1:
        _refuse("a block has not exactly one signature")
    try:
        # The signature covers only the payload; that the signature has only one spelling is checked here.
        for encoded in (envelope.payload, envelope.signatures[0].sig):
            if base64.b64encode(base64.b64decode(encoded, validate=True)).decode() != encoded:
                _refuse("a block has a second spelling")
        found = verify(msgspec.json.encode(envelope), kind, key=key or envelope.signatures[0].keyid)
        block = typed.decode(found.payload, form)
        if canonical(msgspec.to_builtins(block)) != found.payload:
            _refuse("a block has a second spelling")
    except GrantTokenError:
        raise
    except (InterlockError, msgspec.MsgspecError, ValueError):
        _refuse("a signature is not good, or what it signs is not a block")
    hex_digits = digest_bytes("grant-token-block", found.payload).removeprefix("sha256:")
    return block, f"token_{hex_digits[:32]}"


def _as_grant(block_id: str, agent: str, parent: str, limits: Restriction, expires_at_us: int | None) -> Grant:
    """Returns a block as a grant. What the block does not name it does not restrict, so only its parents' limits apply there."""

    def globs_or_all(globs: tuple[str, ...] | None, all_of_them: str) -> tuple[str, ...]:
        return (all_of_them,) if globs is None else globs

    ends = [at for at in (limits.expires_at_us, expires_at_us) if at is not None]
    return Grant(
        id=block_id,
        agent=agent,
        tools=globs_or_all(limits.tools, "*"),
        deny_tools=limits.deny_tools,
        state_keys=globs_or_all(limits.state_keys, "*"),
        paths=Paths(read=globs_or_all(limits.read, "**"), write=globs_or_all(limits.write, "**")),
        hosts=globs_or_all(limits.hosts, "*:*"),
        unscoped=globs_or_all(limits.unscoped, "*"),
        actions_max=limits.actions_max,
        uses_max=limits.uses_max,
        expires_at_us=min(ends) if ends else None,
        parent=parent,
        source=TOKEN,
    )


def _sensible(limits: Restriction) -> Restriction:
    """Returns the same block, if every number in it is within its bounds."""
    try:
        return typed.convert(msgspec.to_builtins(limits), Restriction)
    except msgspec.ValidationError as error:
        raise GrantTokenError(f"a restriction is invalid: {error}") from None


def _sign(signer: Signer, kind: str, block: Root | Block) -> Envelope:
    return typed.decode(signer.sign(kind, canonical(msgspec.to_builtins(block))), Envelope)


def _write(blocks: tuple[Envelope, ...], holder: Signer) -> str:
    return _wrap(TokenText(blocks=blocks, secret=holder.secret()))


def _wrap(content: TokenText) -> str:
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(content)).decode().rstrip("=")


def _unwrap(text: str) -> TokenText:
    if len(text) > TOKEN_CHARS_MAX:
        _refuse(f"it has more than {TOKEN_CHARS_MAX} characters")
    if not text.startswith(PREFIX):
        _refuse(f"it does not begin with `{PREFIX}`")
    body = text.removeprefix(PREFIX)
    try:
        content = typed.decode(base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True), TokenText)
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        _refuse("it is damaged")
    if _wrap(content) != text:
        _refuse("it is damaged")
    return content


def _refuse(why: str) -> NoReturn:
    raise GrantTokenError(f"the grant token cannot be trusted: {why}", hint="ask for it again where it was issued")
