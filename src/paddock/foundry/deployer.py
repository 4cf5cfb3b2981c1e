"""Checks that a service answers, and how fast."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from paddock.agent import Agent, TaskError, task

REDIRECTS_MAX = 5
BODY_BYTES_MAX = 1_000_000
TIMEOUT_S_MAX = 60.0
SAFE = "/%:=&?~#+!$,;'@()*[]"
"""What stays as it is in a path and query; spaces and letters beyond ASCII are quoted."""


class Deployer(Agent):
    """Looks at services from outside, as their users do."""

    @task(timeout_s=TIMEOUT_S_MAX + 15)
    def check(self, url: str, timeout_s: float = 5.0, expect_status: int | None = None) -> dict[str, Any]:
        """GET a URL (http or https), following up to 5 redirects. `ok`: the status is `expect_status`, or below 400
        when none is given. A service that does not answer is an answer too: `ok` false, with the reason in `error`."""
        if not 0 < timeout_s <= TIMEOUT_S_MAX:
            raise TaskError(
                f"timeout_s must be above 0 and at most {TIMEOUT_S_MAX:g}, not {timeout_s:g}", code="bad-arguments"
            )
        started = time.monotonic()
        probe = _Probe(url, started + timeout_s)
        found = probe.run()
        status = found["status"]
        wanted = status == expect_status if expect_status is not None else status is not None and status < 400
        if found["error"] is None and not wanted:
            found["error"] = f"status {status}" + (f" instead of {expect_status}" if expect_status is not None else "")
        return {"ok": found["error"] is None, **found, "latency_ms": round((time.monotonic() - started) * 1000, 3)}


class _Probe:
    """One check with one deadline over all its steps: connects, redirects and the body together."""

    def __init__(self, url: str, deadline: float) -> None:
        self._url, self._deadline = url, deadline
        self._seen: list[str] = []

    def run(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "status": None,
            "url": self._url,
            "redirects": [],
            "bytes": 0,
            "cut": False,
            "error": None,
        }
        url = check_url(self._url)
        try:
            for _ in range(REDIRECTS_MAX + 1):
                found["url"] = url
                status, location, size, cut = self._get(url)
                found.update(status=status, bytes=size, cut=cut)
                if status not in (301, 302, 303, 307, 308) or not location:
                    return found
                found["redirects"].append(url)
                url = check_url(urljoin(url, location))
                if url in found["redirects"]:
                    raise _Bad(f"redirects in a circle, back to {url}")
            raise _Bad(f"more than {REDIRECTS_MAX} redirects")
        except TaskError as error:  # a redirect to a scheme or address that is none
            found["error"] = f"redirected: {error.message}"
        except _Bad as error:
            found["error"] = str(error)
        except TimeoutError:
            found["error"] = "no complete answer within the time limit"
        except ssl.SSLError as error:
            found["error"] = f"TLS: {error.reason or error}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            found["error"] = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return found

    def _get(self, url: str) -> tuple[int, str, int, bool]:
        """Status, Location, bytes read of the body, and whether it was cut at the limit."""
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        made = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = made(host, parts.port, timeout=self._left_s())
        try:
            connection.connect()
            path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=SAFE)
            headers = {"User-Agent": "paddock-deployer", "Accept": "*/*", "Connection": "close"}
            sock = connection.sock
            # A server that sends a byte now and then resets the socket's own time-out each time. Only shutting the
            # socket at the deadline bounds the headers too.
            with _Deadline(sock, self._left_s()) as deadline:
                try:
                    connection.request("GET", path, headers=headers)
                    response = connection.getresponse()
                    size = 0
                    while size < BODY_BYTES_MAX and (part := response.read1(65536)):
                        size += len(part)
                except (OSError, http.client.HTTPException, ValueError):
                    if deadline.over:
                        raise TimeoutError from None
                    raise
                if deadline.over:
                    raise TimeoutError
                return response.status, response.headers.get("Location", ""), size, size >= BODY_BYTES_MAX
        finally:
            connection.close()

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _Bad(Exception):
    """The service answered in a way that ends the check."""


class _Deadline:
    """Shuts a socket down when its time is over; `over` says that it did."""

    def __init__(self, sock: socket.socket, left_s: float) -> None:
        self.over = False
        self._socket = sock
        self._timer = threading.Timer(left_s, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _end(self) -> None:
        self.over = True
        try:
            # Of the plain socket, also under TLS: the TLS object is being read by the other thread.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            pass  # closed just now


def check_url(url: str) -> str:
    """Return `url` if it is an absolute http or https URL without credentials, else TaskError `bad-arguments`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise TaskError(f"url {url!r}: {error}", code="bad-arguments") from None
    if parts.scheme not in ("http", "https"):
        raise TaskError(
            f"url {url!r}: only http and https are checked, not {parts.scheme or 'no scheme'}", code="bad-arguments"
        )
    if not host:
        raise TaskError(f"url {url!r} names no host", code="bad-arguments")
    if parts.username or parts.password:
        raise TaskError(f"the url for {host} holds a user or password; checks are made without", code="bad-arguments")
    return url
