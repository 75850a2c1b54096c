"""Log lines: one event is one line, for people and for machines."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from replication.cli.logs import LOGGER, LineFormatter, write_to_stderr


def record(message: str, facts: dict | None = None, error: BaseException | None = None):
    made = logging.LogRecord(LOGGER, logging.WARNING, "", 0, message, None, None)
    made.created = 0.0
    if facts is not None:
        made.facts = facts
    if error is not None:
        made.exc_info = (type(error), error, None)
    return made


def test_a_line_has_moment_level_event_and_facts():
    """`key=value`, with quotes only where a value needs them."""
    line = LineFormatter("text").format(record("no-answer", {"peer": "h:1", "why": "timed out"}))
    assert line == '1970-01-01T00:00:00.000+00:00 warning no-answer peer=h:1 why="timed out"'


@pytest.mark.parametrize("value", ["", 'a "quoted" one', "two\nlines", "k=v"])
def test_a_value_cannot_break_the_line_or_forge_a_fact(value):
    """What a peer says about itself may hold anything; it stays one value of one line."""
    line = LineFormatter("text").format(record("event", {"said": value}))
    assert "\n" not in line
    assert line.endswith("said=" + json.dumps(value))


def test_json_lines_hold_the_same_facts():
    """One object per line; what JSON does not know is shown as text."""
    line = LineFormatter("json").format(record("event", {"n": 1, "kinds": {"push"}}))
    assert json.loads(line) == {
        "at": "1970-01-01T00:00:00.000+00:00",
        "level": "warning",
        "event": "event",
        "n": 1,
        "kinds": "{'push'}",
    }


def test_a_traceback_is_folded_into_its_line():
    """The type of an error and its text; the stack would make lines of one event."""
    line = LineFormatter("text").format(record("step-raised", error=ValueError("bad row")))
    assert line.endswith('step-raised error="ValueError: bad row"')


def test_a_second_call_replaces_the_first(monkeypatch):
    """A program that configures twice does not write every line twice."""
    logger = logging.getLogger(LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    try:
        write_to_stderr("warning", "text")
        write_to_stderr("info", "json")
        assert len(logger.handlers) == 1
        assert logger.level == logging.INFO
        assert logger.handlers[0].stream is sys.stderr
    finally:
        logger.handlers, logger.level, logger.propagate = before
