"""The envelope around everything that we send or keep: what it is, in which version, and whole.

    "cv" | version | kind | flags | crc32 | size of the plain body | body, compressed or not

The checksum covers all but itself. A body over `COMPRESS_ABOVE` is compressed if that makes it
smaller, and is inflated no further than the size it announces, which is limited: a bomb is refused
before it grows. Nothing that could not be opened again is sealed.
"""

from __future__ import annotations

import zlib
from struct import Struct

from crdt.errors import BodyTooLargeError, DecodeError, UnknownVersionError

BODY_BYTES_MAX = 64 << 20  # of one envelope after decompression
COMPRESS_ABOVE = 1024  # bytes; below, zlib's header eats the gain
MAGIC = b"cv"
VERSION = 3
_COMPRESSED = 1
_HEADER = Struct(">2sBcBII")  # magic, version, kind, flags, crc32, size of the plain body
_HEADER_BYTES = _HEADER.size


def seal(kind: str, body: bytes, *, compress: bool = True) -> bytes:
    """Wrap a body: magic, version, kind, flags, crc32 of what follows, plain size, body.

    Raises:
        BodyTooLargeError: nobody would open it.
    """
    if len(body) > BODY_BYTES_MAX:
        raise BodyTooLargeError(len(body), BODY_BYTES_MAX)
    content = deflated(body) if compress else body
    flags = _COMPRESSED if len(content) < len(body) else 0
    rest = len(body).to_bytes(4, "big") + content
    head = MAGIC + bytes([VERSION]) + kind.encode() + bytes([flags])
    return head + zlib.crc32(head + rest).to_bytes(4, "big") + rest


def unseal(kind: str, data: bytes, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The body of an envelope of that kind, of at most `bytes_max` bytes when unpacked.

    Raises:
        UnknownVersionError: made by another wire version.
        DecodeError: damaged, cut, of another kind, or larger than that when unpacked.
    """
    if type(data) is not bytes or len(data) < _HEADER_BYTES or data[:2] != MAGIC:
        raise DecodeError("no envelope of ours")
    _, version, its_kind, flags, crc, size = _HEADER.unpack_from(data)
    if version != VERSION:
        raise UnknownVersionError(version, VERSION)
    if zlib.crc32(data[9:], zlib.crc32(data[:5])) != crc:
        raise DecodeError("damaged: the checksum does not fit")
    if its_kind != kind.encode() or flags & ~_COMPRESSED:
        raise DecodeError(f"an envelope of kind {its_kind!r}, flags {flags}; wanted {kind!r}")
    content = data[_HEADER_BYTES:]
    if size > bytes_max:
        raise DecodeError(f"announces {size} bytes, allowed are {bytes_max}")
    return _whole(_grown(content, size) if flags & _COMPRESSED else content, size)


def deflated(body: bytes) -> bytes:
    """A body as it travels: compressed if it is long, and if that makes it shorter."""
    if len(body) > COMPRESS_ABOVE:
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body):
            return smaller
    return body


def inflated(content: bytes, size: int) -> bytes:
    """The body of `size` bytes that `deflated` made this of; a shorter content is compressed.

    Raises:
        DecodeError: it is not of that size; no more than that is inflated.
    """
    return _whole(_grown(content, size) if len(content) < size else content, size)


def _grown(content: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(content, size + 1)
    except zlib.error as error:
        raise DecodeError(f"damaged: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise DecodeError("the compressed body does not end where it should")
    return body


def _whole(body: bytes, size: int) -> bytes:
    if len(body) != size:
        raise DecodeError(f"announces {size} bytes and holds {len(body)}")
    return body
