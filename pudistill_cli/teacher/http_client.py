"""The HTTP client of an endpoint. It reads no environment variable itself: what it needs of them is checked before."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from pudistill_cli.errors import TeacherError
from pudistill_cli.network import Proxy, certificates_from, check_certificates, is_loopback, proxy_for

CONNECT_TIMEOUT = 10.0
LONGEST_REPLY = 64 * 2**20
"""Bytes of a body, unpacked."""


@dataclass(frozen=True, slots=True)
class Route:
    """How an endpoint is reached."""

    proxy: Proxy | None
    trust: ssl.SSLContext
    """Certificates of authorities; none where none is needed, so that nothing would be trusted."""

    def client(self, headers: Mapping[str, str], timeout: float) -> httpx.AsyncClient:
        """A client whose requests have no time limit but for connecting: that of a whole request is its caller's."""
        limits = httpx.Timeout(None, connect=min(CONNECT_TIMEOUT, timeout))
        proxy = None if self.proxy is None else self.proxy.url
        return httpx.AsyncClient(headers=headers, timeout=limits, trust_env=False, verify=self.trust, proxy=proxy)

    @property
    def hint(self) -> str:
        """What to check beside the server where it cannot be reached."""
        return "" if self.proxy is None else f", and the proxy in {self.proxy.origin}"


async def fetched(
    client: httpx.AsyncClient, method: str, url: str, content: bytes = b""
) -> tuple[httpx.Response, bytes | None]:
    """A response and its body; None for one that has no end, or hardly any, which is read no further."""
    body = bytearray()
    async with client.stream(method, url, content=content) as response:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > LONGEST_REPLY:
                return response, None
    return response, bytes(body)


def route_to(base_url: str) -> Route:
    """How an endpoint is reached. A loopback address needs no proxy, and plain HTTP no certificates.

    Raises:
        TeacherError: an environment variable that matters for it names a proxy or certificates that are none.
    """
    address = urlsplit(base_url)
    proxy = proxy_for(base_url, TeacherError)
    if proxy is not None:
        try:
            httpx.Proxy(proxy.url)
        except (ValueError, httpx.InvalidURL):  # its words may hold a password
            raise TeacherError(f"{proxy.origin} names no proxy that can be used.", f"unset {proxy.origin}") from None
    if address.scheme == "http" and (proxy is None or not proxy.url.startswith("https:")):
        return Route(proxy, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    try:
        check_certificates(TeacherError)
    except TeacherError:
        if not is_loopback(address.hostname or ""):
            raise
        return Route(proxy, httpx.create_ssl_context(trust_env=False))
    return Route(proxy, httpx.create_ssl_context())


def tls_problem(error: Exception) -> tuple[str, str] | None:
    """What no retry would change about a connection that failed, and what to type next; None for other failures."""
    said = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        origin = certificates_from()
        hint = f"Add its authority to {origin}." if origin else "Name its authority's: export SSL_CERT_FILE=FILE"
        return f"has a certificate that is not trusted here: {said}", hint
    if "WRONG_VERSION_NUMBER" in said or "RECORD_LAYER_FAILURE" in said:
        return f"does not speak TLS: {said}", "Check teacher.base_url: http:// instead of https://?"
    return None
