"""A chunk of any content, sound or not, as a peer could send it."""

from hashlib import blake2b

from crdt import Chunk
from crdt.kernel.chunk import id_of
from crdt.kernel.envelope import seal


def only_chunk(content, vector):
    """The one chunk of a set with this content, under the id that it ought to have."""
    set_id = id_of([blake2b(content, digest_size=16).digest()], vector)
    return Chunk(set_id, 0, 1, vector, seal("e", content, compress=False))
