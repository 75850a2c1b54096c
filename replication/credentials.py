"""What proves who somebody is: secrets, what is derived from them, and certificates."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

from replication.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

Secret = str | bytes | Sequence[str | bytes]
SECRET_BYTES_MIN = 8


def keys_of(secret: Secret | None) -> tuple[bytes, ...]:
    """The keys of a cluster secret, the one to seal with first.

    Raises:
        ConfigError: one is too short to guard anything.
    """
    if secret is None:
        return ()
    given = [secret] if isinstance(secret, str | bytes) else list(secret)
    keys = tuple(key.encode() if isinstance(key, str) else bytes(key) for key in given)
    if not keys or any(len(key) < SECRET_BYTES_MIN for key in keys):
        raise ConfigError(
            f"a secret has at least {SECRET_BYTES_MIN} bytes", hint="openssl rand -hex 32"
        )
    return keys


def page_token(keys: tuple[bytes, ...]) -> str:
    """What a reader of `/status` and `/metrics` shows as a bearer token; "" without a secret.

    It is derived from the secret and cannot be turned back into it: a scraper may hold it.
    """
    return hmac.new(keys[0], b"convoca pages", hashlib.sha256).hexdigest() if keys else ""


def tls_contexts(
    certificate: Path | None, key: Path | None, authority: Path | None
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """The contexts of a server and of a client, from PEM files; (None, None) for plain HTTP.

    Args:
        certificate: of this side, with its chain.
        key: its private key, if that is in another file.
        authority: whom to trust instead of the system's authorities. A server that is given one
            asks its clients for certificates as well: mutual TLS.

    Raises:
        ConfigError: a file is missing, unreadable or not PEM; or a key came without certificate.
    """
    if certificate is None and authority is None:
        if key is not None:
            raise ConfigError("a private key without its certificate", hint="give both")
        return None, None
    try:
        client = ssl.create_default_context(cafile=authority)
        if certificate is None:
            return None, client
        client.load_cert_chain(certificate, key)
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
        server.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (certificate, key, authority) if path is not None)
        raise ConfigError(
            f"TLS cannot be set up: {error}", hint=f"PEM files that fit together: {files}"
        ) from error
    if authority is not None:
        server.verify_mode = ssl.CERT_REQUIRED
    return server, client
