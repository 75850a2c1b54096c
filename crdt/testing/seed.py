"""The seed of a test run: what `laws` and `fuzz` begin with when nobody says where.

It is Hypothesis that chooses, so that one option says for a whole run what its random tests do:
`pytest --hypothesis-seed=7` gives the same seed again, a profile with `derandomize` a fixed one,
and otherwise it is another one in every run. Whoever fails prints the seed that it failed with.
"""

from __future__ import annotations

from hashlib import blake2b

_BYTES = 4


def seed_of_the_run() -> int:
    """A seed by Hypothesis, or 0 where that is not installed. About 2 ms.

    Hypothesis likes its first examples plain, so a few of them are drawn, and hashed.
    """
    try:
        from hypothesis import HealthCheck, Phase, given, settings  # noqa: PLC0415  # an extra
        from hypothesis import strategies as st  # noqa: PLC0415
    except ImportError:
        return 0
    drawn = blake2b(digest_size=_BYTES)

    @settings(
        max_examples=8,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=8, max_size=8))
    def draw(entropy: bytes) -> None:
        drawn.update(entropy)

    draw()
    return int.from_bytes(drawn.digest(), "big")


def examples_of_the_run(otherwise: int) -> int:
    """How many examples the profile of Hypothesis asks for, or, without Hypothesis, so many."""
    try:
        from hypothesis import settings  # noqa: PLC0415  # as above
    except ImportError:
        return otherwise
    return settings().max_examples
