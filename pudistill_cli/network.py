"""Proxies and certificates as the environment names them, checked before they are used."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pudistill_cli.errors import PudistillError

SCHEMES = ("http", "https", "socks5", "socks5h")
"""Of proxies."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Through which an address is reached."""

    url: str
    """Perhaps with a password in it: not for people."""
    origin: str
    """For people: the variable that names it."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: 127.0.0.0/8, ::1, localhost, or the unspecified address, which leads here too."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return _is_short_loopback(name)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _is_short_loopback(name: str) -> bool:
    """127.1 and the like, which a resolver takes for addresses."""
    try:
        return name[:1].isdigit() and socket.inet_aton(name)[0] == 127
    except OSError:
        return False


def proxy_for(url: str, error: type[PudistillError]) -> Proxy | None:
    """The proxy that the environment names for an address; none for a loopback address, or where NO_PROXY says so.

    Raises:
        error: the variable holds no address of a proxy, or one of a kind that cannot be used here.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    scheme = next((s for s in (parts.scheme, "all") if proxies.get(s)), None)
    return None if scheme is None else _checked(scheme, proxies[scheme], error)


def check_every_proxy(error: type[PudistillError]) -> None:
    """See that all that the environment names can be used: for clients that read every variable themselves.

    Raises:
        error: as `proxy_for`.
    """
    for scheme, value in getproxies().items():
        if scheme in ("http", "https", "all") and value:
            _checked(scheme, value, error)


def _checked(scheme: str, value: str, error: type[PudistillError]) -> Proxy:
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    origin = next((name for name in names if os.environ.get(name) == value), "the system's proxy settings")
    url = value if "://" in value else f"http://{value}"
    if problem := _proxy_problem(url):
        raise error(
            f"{origin} names no proxy that can be used: {problem}.",
            f"Set it to an address like http://proxy.example:8080, or leave it out: unset {origin}",
        )
    return Proxy(url, origin)


def _proxy_problem(url: str) -> str:
    """Why a proxy's address cannot be used, without repeating it, since a password may be in it; "" if it can."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "its host or port cannot be read"
    if parts.scheme not in SCHEMES:
        return f"{parts.scheme}:// is none of {', '.join(f'{s}://' for s in SCHEMES)}"
    if not host or port == 0 or not url.isprintable() or " " in url:
        return "its host or port cannot be read"
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        return "a SOCKS proxy needs the package socksio (pip install socksio)"
    return ""


def certificates_from() -> str:
    """The variable that names the certificates of authorities, SSL_CERT_FILE or SSL_CERT_DIR; "" for neither."""
    return next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "")


def check_certificates(error: type[PudistillError]) -> None:
    """See that the certificates that the environment names are there.

    Raises:
        error: no such file or folder, or no certificate in it.
    """
    origin = certificates_from()
    if not origin:
        return
    value = os.environ[origin]
    problem = ""
    if origin == "SSL_CERT_FILE":
        try:
            ssl.create_default_context(cafile=value)
        except ssl.SSLError:
            problem = "in which there is no certificate"
        except (OSError, ValueError) as reason:
            problem = f"which cannot be read ({getattr(reason, 'strerror', None) or reason})"
    elif not any(Path(folder).is_dir() for folder in value.split(os.pathsep)):
        problem = "which is no folder"
    if problem:
        raise error(
            f"{origin} names {value}, {problem}.",
            f"Set it to the certificates of the authorities that you trust, or leave it out: unset {origin}",
        )
