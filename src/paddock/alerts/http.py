"""One POST of JSON: bounded in time and in what is read of the answer, no redirects; failures as our own errors."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any
from urllib.parse import urlsplit

import certifi
import httpx

from paddock.decide.redact import said
from paddock.model.errors import Denied, Refused, Unavailable

ANSWER_BYTES_MAX = 64 * 1024
"""More of an answer is not read; whatever it says, its status has been seen."""
_LATER = (408, 425, 429)

# It would log every address, and with some services the address is the secret.
logging.getLogger("httpx").setLevel(logging.WARNING)


def tls() -> ssl.SSLContext:
    """What this system trusts ($SSL_CERT_FILE counts); where it has no certificates at all, Mozilla's."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        context.load_verify_locations(certifi.where())
    return context


class JsonPoster:
    """`secrets` never appear in an error."""

    def __init__(
        self, url: str, *, timeout_s: float, headers: dict[str, str] | None = None, secrets: tuple[str, ...]
    ) -> None:
        self._url, self._timeout_s, self._secrets = url, timeout_s, secrets
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        local = self._host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.AsyncClient(
            headers=headers,
            verify=tls() if parts.scheme == "https" else False,
            follow_redirects=False,
            timeout=timeout_s,
            trust_env=not local,  # no proxy to our own machine
        )

    async def post(self, body: dict[str, Any]) -> bytes:
        """The beginning of a good answer's body."""
        try:
            async with asyncio.timeout(self._timeout_s), self._http.stream("POST", self._url, json=body) as answer:
                status = answer.status_code
                try:
                    data = await self._some(answer)
                except httpx.HTTPError:
                    data = b""  # the status says enough
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Unavailable(f"{self._host} did not answer within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{self._host} cannot be reached: {self._clean(str(error) or type(error).__name__)}"
            ) from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Refused(f"the address of this channel is no URL: {self._clean(str(error))}") from None
        if 200 <= status < 300:
            return data
        told = self._clean(data.decode("utf-8", "replace"))
        text = f"{self._host} answered {status}" + (f": {told}" if told else "")
        if status >= 500 or status in _LATER:
            raise Unavailable(text)
        if status in (401, 403):
            raise Denied(text)
        raise Refused(text + (" (redirects are not followed)" if 300 <= status < 400 else ""))

    async def _some(self, answer: httpx.Response) -> bytes:
        data = b""
        async for part in answer.aiter_raw():
            data += part
            if len(data) >= ANSWER_BYTES_MAX:
                break
        return data[:ANSWER_BYTES_MAX]

    def _clean(self, text: str) -> str:
        return said(text, self._secrets)

    async def close(self) -> None:
        await self._http.aclose()
