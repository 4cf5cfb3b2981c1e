"""Who may do what: keys, the operator's and account's tokens, and user tokens by role.

Operator mode with a memory resolver (NATS "JWT in depth"): the operator's token signs the account's, the account's
token holds one *scoped* signing key a role, and each scope is a permission template. Who holds a role's signing key
(a node holds the agents') can mint tokens of that role and nothing else: the permissions come from the account, not
from the token.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import nkeys

from paddock.fabric import subjects
from paddock.fabric.files import write_whole
from paddock.fabric.permissions import PERMISSIONS
from paddock.model.errors import DataDirError, Refused

ROLES = ("server", "node", "agent", "client")

_OPERATOR, _ACCOUNT, _USER = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER


class Identities:
    """The keys of one installation, in a folder (0700, files 0600). Made once by `Identities.open`."""

    def __init__(self, seeds: Mapping[str, str], *, issued_at: int) -> None:
        self._seeds = dict(seeds)
        self._issued_at = issued_at

    @classmethod
    def open(cls, folder: Path) -> Identities:
        """Read the keys of `folder`, or make them there. DataDirError when the files cannot be used."""
        path = folder / "keys.json"
        try:
            if not path.exists():
                if (store := folder.parent / "store").exists():
                    raise DataDirError(
                        f"{path} is missing, and what is in {store} can be read with its keys alone: restore it "
                        "from a backup, or move the data directory away to start anew"
                    )
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                seeds = {name: _new_seed(_OPERATOR if name == "operator" else _ACCOUNT) for name in _KEY_NAMES}
                write_whole(path, msgspec.json.encode({"issued_at": int(time.time()), "seeds": seeds}))
            held = msgspec.json.decode(path.read_bytes(), type=_KeyFile)
        except OSError as error:
            raise DataDirError(f"keys in {folder} cannot be read or made: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise DataDirError(
                f"{path} is damaged: restore it from a backup, or move the data directory away to start anew"
            ) from error
        missing = [name for name in _KEY_NAMES if name not in held.seeds]
        if missing:
            raise DataDirError(f"{path} lacks the keys {', '.join(missing)}: restore it from a backup")
        return cls(held.seeds, issued_at=held.issued_at)

    def server_config(self) -> dict[str, str]:
        """What nats-server needs: `operator`, `system_account`, `account`, and both accounts' tokens. No secrets."""
        operator, account, system = (_public(self._seeds[name]) for name in ("operator", "account", "system"))
        unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        scopes = [
            {
                "kind": "user_scope",
                "key": _public(self._seeds[role]),
                "role": role,
                "template": {
                    "pub": {"allow": rules["pub"]},
                    "sub": {"allow": rules["sub"]},
                    "subs": -1,
                    "data": -1,
                    "payload": -1,
                },
            }
            for role, rules in PERMISSIONS.items()
        ]
        limits = {**unlimited, "wildcards": True}
        return {
            "operator": self._sign(
                "operator", operator, "paddock", {"type": "operator", "version": 2, "system_account": system}
            ),
            "system_account": system,
            "system_account_token": self._sign(
                "operator", system, "SYS", {"type": "account", "version": 2, "limits": limits}
            ),
            "account": account,
            "account_token": self._sign(
                "operator",
                account,
                "paddock",
                {"type": "account", "version": 2, "limits": {**limits, **storage}, "signing_keys": scopes},
            ),
        }

    def watcher(self) -> str:
        """Creds of who may ask the server about its own health, and nothing else."""
        user_seed = _new_seed(_USER)
        claims = {
            "type": "user",
            "version": 2,
            "pub": {"allow": ["$SYS.REQ.SERVER.PING.HEALTHZ"]},
            "sub": {"allow": ["_INBOX.watcher.>"]},
            "subs": -1,
            "data": -1,
            "payload": -1,
        }
        return _creds_text(
            _token(self._seeds["system"], _public(user_seed), "watcher", claims, issued_at=int(time.time())), user_seed
        )

    def minter(self, role: str) -> Minter:
        """What mints tokens of one role, and of no other."""
        return Minter(role, self._seeds[role], _public(self._seeds["account"]))

    def _sign(self, issuer: str, subject: str, name: str, nats: dict[str, Any]) -> str:
        return _token(self._seeds[issuer], subject, name, nats, issued_at=self._issued_at)


class Minter:
    """Mints creds for one role. A node gets the one for `agent`; see the module's text."""

    def __init__(self, role: str, seed: str, account: str) -> None:
        if role not in ROLES:
            raise Refused(f"no such role: {role}")
        self.role = role
        self._seed = seed
        self._account = account

    def creds(self, name: str, tags: Mapping[str, str]) -> str:
        """A new user's `.creds` text: its token and its private key. `tags` fill the role's template."""
        user_seed = _new_seed(_USER)
        claims = {
            "type": "user",
            "version": 2,
            "issuer_account": self._account,
            "tags": [f"{key}:{value}" for key, value in tags.items()],
            "pub": {},
            "sub": {},
        }
        token = _token(self._seed, _public(user_seed), name, claims, issued_at=int(time.time()))
        return _creds_text(token, user_seed)

    def dump(self) -> dict[str, str]:
        """For the one process that mints with it; a secret."""
        return {"role": self.role, "seed": self._seed, "account": self._account}

    def agent(self, node: str, fleet: str, name: str) -> str:
        """Creds of one agent (role `agent`) on one node."""
        own = {f"own{i}": subjects.agent_lane(name, lane) for i, lane in enumerate(subjects.LANES)}
        tags = {"node": node, "fleet": fleet, "name": name, "work": subjects.work_stream(fleet), **own}
        return self.creds(f"{fleet}/{name}", tags)


class Creds(msgspec.Struct, frozen=True):
    """A user's token and private key, read from `.creds` text."""

    token: str
    seed: str

    @classmethod
    def parse(cls, text: str) -> Creds:
        """Refused when it is not a NATS creds file."""
        token, seed, lines = "", "", [line.strip() for line in text.splitlines()]
        for before, line in pairwise(lines):
            if "BEGIN NATS USER JWT" in before:
                token = line
            elif "BEGIN USER NKEY SEED" in before:
                seed = line
        if not token or not seed:
            raise Refused("this is not a NATS credentials file: it needs a user JWT block and an nkey seed block")
        return cls(token, seed)

    def sign(self, nonce: bytes) -> str:
        """The server's nonce, signed, as CONNECT wants it."""
        signature = nkeys.from_seed(self.seed.encode()).sign(nonce)
        return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


def nobody() -> str:
    """Creds text that opens nothing: a key with a token that nobody signed. For rehearsals."""
    return _creds_text("nobody", _new_seed(_USER))


def _creds_text(token: str, seed: str) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


class _KeyFile(msgspec.Struct):
    issued_at: int
    seeds: dict[str, str]


_KEY_NAMES = ("operator", "account", "system", *ROLES)


def _new_seed(kind: int) -> str:
    return str(nkeys.encode_seed(os.urandom(32), kind).decode())


def _public(seed: str) -> str:
    return str(nkeys.from_seed(seed.encode()).public_key.decode())


def _token(seed: str, subject: str, name: str, nats: dict[str, Any], *, issued_at: int) -> str:
    """A NATS JWT (algorithm ed25519-nkey)."""
    key = nkeys.from_seed(seed.encode())
    claims: dict[str, Any] = {"iat": issued_at, "iss": key.public_key.decode(), "sub": subject, "name": name}
    claims["nats"] = nats
    claims["jti"] = base64.b32encode(os.urandom(16)).rstrip(b"=").decode()
    head = msgspec.json.encode({"typ": "JWT", "alg": "ed25519-nkey"})
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, msgspec.json.encode(claims)))
    return (signed + b"." + base64.urlsafe_b64encode(key.sign(signed)).rstrip(b"=")).decode()
