"""The terminal view of the gossip demo as a picture: what a person sees under a partition."""

from __future__ import annotations

import io
import os
import re

from rich.console import Console

from demos.gossip.screen import Screen
from demos.gossip.script import names_of, read
from demos.gossip.simulated import Simulated
from demos.gossip.story import Outcome, Story, while_open
from tests.browser import IMAGES

SCRIPT = "2 partition ada bob cyd | dee eve\n6 heal\n9 end"


async def test_the_terminal_view_is_recorded_as_a_picture() -> None:
    """Rich's own view, at the end of a partition, on virtual time: a seed gives the same picture.

    It is written to docs/images only if pictures are asked for (`make images`).
    """
    names = names_of(5)
    console = Console(
        record=True,
        width=92,
        force_terminal=True,
        color_system="truecolor",
        file=io.StringIO(),
    )
    screen = Screen(console, "gossip: 5 simulated nodes, virtual time")
    seen: list[tuple[float, object]] = []

    def changed(outcome: Outcome, remark: str) -> None:
        if not remark and outcome.curve[-1].at_s < 6:
            seen.append((outcome.curve[-1].at_s, screen._picture(outcome)))

    cluster = Simulated(names, 1, 0.25, 0)
    await while_open(cluster, Story(cluster, changed).play(read(SCRIPT, names)))
    console.print(seen[-1][1])
    picture = console.export_svg(title="python -m demos gossip")
    for name in names:
        assert name in picture
    assert picture.count("*") >= 6, "what differs is marked"
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    assert set(re.findall(r"https?://[\w.]+", picture)) <= {
        "http://www.w3.org",  # the name of SVG
        "https://www.textualize.io",  # rich's comment about itself
    }
    if os.environ.get("CONVOCA_IMAGES"):
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / "terminal.svg").write_text(picture, encoding="utf-8")
