"""Who is signed in to the console: a signed cookie, the proof that a form is ours, and how fast the token is guessed.

The cookie is Flask's, signed with a key made from `ADMIN_TOKEN`, so that a new token signs everybody out. It is no
bearer's token: `/api/v1` does not look at it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from flask import Flask, Request, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

LASTS_S = 12 * 3600
# Wrong tokens: so many at once, then one each time this has passed.
TRIES, TRY_EVERY_S = 10, 5.0
_KEY_LABEL = b"autoship console sessions 1"
_OF_MACHINES = ("/webhooks/", "/api/", "/metrics", "/livez", "/healthz", "/readyz")
_LOOPBACK = {"127.0.0.1", "::1", "[::1]", "localhost"}
# Whoever stands between us and the browser says so in one of these.
_PROXY_MARKS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")


class Sessions(SecureCookieSessionInterface):
    """The cookie, which a browser sends back over TLS only.

    But for plain http on loopback without a proxy, where not every browser keeps a cookie that asks for TLS.
    """

    digest_method = staticmethod(hashlib.sha256)

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """None for what machines ask: a cookie is not theirs, and looking at it costs more than the rest of Flask."""
        return None if request.path.startswith(_OF_MACHINES) else super().open_session(app, request)

    def get_cookie_name(self, app: Flask) -> str:
        """With the prefix that keeps other hosts of the same domain from setting it, where that may be used."""
        return "__Host-autoship" if self.get_cookie_secure(app) else "autoship"

    def get_cookie_secure(self, app: Flask) -> bool:
        """Whether the browser must keep the cookie to TLS."""
        return not _is_plain_loopback()


class Tries:
    """Lets wrong tokens be tried now and then. A limit of this process: with several, each has its own.

    `monotonic` is the time in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._used_up_until = 0.0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Counts one before its token is looked at. False where it must not be looked at now."""
        with self._lock:
            now = self._monotonic()
            if self._used_up_until > now + (TRIES - 1) * TRY_EVERY_S:
                return False
            self._used_up_until = max(self._used_up_until, now) + TRY_EVERY_S
            return True

    def give_back(self) -> None:
        """The token was right."""
        with self._lock:
            self._used_up_until -= TRY_EVERY_S


def key_of(admin_token: str) -> bytes:
    """What sessions are signed with, the same in every process.

    Slow to make, as every visitor gets something signed with it, to guess the token by.
    """
    return hashlib.scrypt(admin_token.encode(), salt=_KEY_LABEL, n=2**14, r=8, p=1, dklen=32)


def begin(name: str) -> None:
    """Signs a person in, under a session that knows nothing of the one before."""
    session.clear()
    session["name"] = name
    session["until"] = time.time() + LASTS_S


def end() -> None:
    """Signs out."""
    session.clear()


def name() -> str | None:
    """Who is signed in, or None."""
    until = session.get("until", 0)
    return session.get("name") if time.time() < until <= time.time() + LASTS_S else None


def form_token() -> str:
    """What every form of this session carries."""
    if "form" not in session:
        session["form"] = secrets.token_urlsafe(24)
    return str(session["form"])


def is_from_our_form(public_url: str | None) -> bool:
    """Whether a request carries this session's token and, as far as the browser says, comes from a page of ours.

    Our pages send no referrer, so browsers give `null` as the origin of their forms.
    """
    given, ours = request.form.get("form_token", ""), session.get("form", "")
    hosts = {request.host, urlsplit(public_url or "").netloc}
    origin = request.headers.get("Origin", "null")
    same_origin = origin == "null" or origin.partition("://")[2] in hosts
    same_site = request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    return bool(ours) and hmac.compare_digest(given.encode(), ours.encode()) and same_origin and same_site


def _is_plain_loopback() -> bool:
    """Whether the browser, by all we see, talks plain http to this very process.

    A proxy on this machine that ends TLS, names us 127.0.0.1 and leaves no mark would be taken for it: it should pass
    the host on, as the documentation of every proxy says.
    """
    host = re.sub(r":\d+$", "", request.host)
    marked = any(mark in request.headers for mark in _PROXY_MARKS)
    return host in _LOOPBACK and request.remote_addr in _LOOPBACK and not request.is_secure and not marked
