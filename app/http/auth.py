"""API keys: who calls, and what they may do. Only hashes of keys are kept."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from app.http.errors import Answer, HttpProblem
from app.settings import ApiKey, Scope


class Unauthenticated(HttpProblem):
    """The request has no API key, or an unknown one."""

    answer = Answer(401, "invalid_api_key", "A valid API key is needed")


class Forbidden(HttpProblem):
    """The API key lacks a scope."""

    answer = Answer(403, "missing_scope", "The API key lacks a scope")


@dataclass(frozen=True)
class Caller:
    """Who asks. Its name is the tenant of its jobs."""

    name: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raises Forbidden if the caller's key lacks the scope."""
        if scope not in self.scopes:
            raise Forbidden(f"this API key lacks the scope {scope!r}")


ANYBODY = Caller("", frozenset(get_args(Scope)))


class Keys:
    """The keys that may call; with none of them everybody may."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        # the hash of a random key tells nothing by how long its look-up takes
        self._callers = {key.sha256: Caller(key.name, key.scopes) for key in keys}

    def caller(self, authorization: str | None) -> Caller:
        """Who an `Authorization` header is.

        Raises:
            Unauthenticated: no known key.
        """
        if not self._callers:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("expected the header Authorization: Bearer <key>")
        caller = self._callers.get(_digest(key.strip()))
        if caller is None:
            raise Unauthenticated("this API key is not known")
        return caller


def new_key(name: str) -> tuple[str, str]:
    """A new key, and its entry for the setting `api_keys` as JSON."""
    key = f"cc_{secrets.token_urlsafe(32)}"
    entry = ApiKey(name=name, sha256=_digest(key))
    return key, json.dumps(entry.model_dump(mode="json"), sort_keys=True)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
