"""What an authority tells of itself in numbers, in the text format of Prometheus (0.0.4).

A name that ends with ``_total`` counts from the start of the process, any other says how it is now.
`docs/operations.md` lists them all with what to watch for; a test holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX: Final = "convoca_store_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(figures: Mapping[str, float], answers: Mapping[str, int]) -> str:
    """Return the figures, and how many requests were answered with which code, as text."""
    return "\n".join([*_lines(figures), *_answers(answers), ""])


def _lines(figures: Mapping[str, float]) -> Iterable[str]:
    for name, value in figures.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        yield f"# TYPE {PREFIX}{name} {kind}"
        yield f"{PREFIX}{name} {value:.17g}"


def _answers(answers: Mapping[str, int]) -> Iterable[str]:
    yield f"# TYPE {PREFIX}answers_total counter"
    for code, count in sorted(answers.items()):
        yield f'{PREFIX}answers_total{{code="{code}"}} {count}'
