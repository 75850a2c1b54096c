"""Generated rules against the enumerator that looks at each moment."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from tests.scale import rounds, seeds
from tests.transactional.calendars.brute_force import DAYS, enumerated
from transactional import InvalidTimeError, Recurrence
from transactional.calendars.recurrence import Steps, wall_times

HOUR = timedelta(hours=1)
RULES = 5000
# How many days are enumerated, by frequency: as many as can be looked at second by second.
WINDOW_DAYS = {
    "YEARLY": 1500,
    "MONTHLY": 900,
    "WEEKLY": 500,
    "DAILY": 400,
    "HOURLY": 40,
    "MINUTELY": 3,
    "SECONDLY": 1,
}


def numbers(dice: random.Random, least: int, most: int, count: int, *, back: bool = False) -> str:
    chosen = {dice.randint(least, most) for _ in range(dice.randint(1, count))}
    return ",".join(str(-n if back and dice.random() < 0.4 else n) for n in sorted(chosen))


def weekdays(dice: random.Random, ordinals: int) -> str:
    chosen = dice.sample(DAYS, dice.randint(1, 4))
    if ordinals and dice.random() < 0.6:
        chosen = [
            (str(dice.choice([-1, 1]) * dice.randint(1, ordinals)) if dice.random() < 0.7 else "")
            + day
            for day in chosen
        ]
    return ",".join(dict.fromkeys(chosen))


def rule_of(dice: random.Random) -> tuple[str, datetime]:
    """A rule that RFC 5545 allows, likely or not, and a start."""
    freq = dice.choice(list(WINDOW_DAYS))
    parts = [f"FREQ={freq}"]

    def maybe(chance: float, name: str, value: str) -> bool:
        if dice.random() < chance:
            parts.append(f"{name}={value}")
            return True
        return False

    maybe(0.4, "INTERVAL", str(dice.choice([1, 2, 2, 3, 4, 5, 7, 10, 12, 30, 100])))
    maybe(0.3, "BYMONTH", numbers(dice, 1, 12, 4))
    weeks = freq == "YEARLY" and maybe(0.25, "BYWEEKNO", numbers(dice, 1, 53, 4, back=True))
    if freq in {"YEARLY", "HOURLY", "MINUTELY", "SECONDLY"}:
        maybe(0.15, "BYYEARDAY", numbers(dice, 1, 366, 8, back=True))
    if freq != "WEEKLY":
        maybe(0.25, "BYMONTHDAY", numbers(dice, 1, 31, 5, back=True))
    ordinals = 0 if weeks else {"YEARLY": 53, "MONTHLY": 5}.get(freq, 0)
    if "BYMONTH" in ";".join(parts) and freq == "YEARLY":
        ordinals = min(ordinals, 5)
    maybe(0.45, "BYDAY", weekdays(dice, ordinals))
    maybe(0.25, "BYHOUR", numbers(dice, 0, 23, 3))
    maybe(0.2, "BYMINUTE", numbers(dice, 0, 59, 3))
    maybe(0.15, "BYSECOND", numbers(dice, 0, 59, 2))
    maybe(0.3, "WKST", dice.choice(DAYS))
    if len(parts) > 2:
        maybe(0.3, "BYSETPOS", numbers(dice, 1, 4, 3, back=True))
    start = datetime(  # noqa: DTZ001 wall clock
        dice.choice([1999, 2000, 2004, 2019, 2024, 2025, 2096, 2099]),
        dice.randint(1, 12),
        dice.randint(1, 28),
        dice.randint(0, 23),
        dice.choice([0, 30, 59]),
        dice.choice([0, 0, 17]),
    )
    if dice.random() < 0.2:
        parts.append(f"COUNT={dice.randint(1, 40)}")
    elif dice.random() < 0.2:
        until = start + timedelta(days=dice.randint(0, 400), hours=dice.randint(0, 24))
        parts.append(f"UNTIL={until:{dice.choice(['%Y%m%d', '%Y%m%dT%H%M%S'])}}")
    dice.shuffle(parts)
    return ";".join(parts), start


def test_rules_mean_what_looking_at_each_moment_finds() -> None:
    """Not one of the generated rules gives another list of times than the enumerator."""
    (seed,) = seeds(1)
    print(f"CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    for number in range(rounds(RULES, 250)):
        text, start = rule_of(dice)
        freq = text.split("FREQ=")[1].split(";")[0]
        days = WINDOW_DAYS[freq]
        end = datetime(start.year, start.month, start.day) + timedelta(days=days)  # noqa: DTZ001
        rule = Recurrence.parse(text, start=start, duration=HOUR)
        found = list(wall_times(rule, before=end, steps=Steps(10**7)))
        wanted = enumerated(text, start, days)
        assert found == wanted, f"rule {number}: {text} from {start}"


def test_leaving_out_what_lies_before_changes_nothing_after_it() -> None:
    """`since` skips the past of a rule without looking at it, and its alignment stays."""
    (seed,) = seeds(1)
    print(f"CONVOCA_SEED={seed}")
    dice = random.Random(seed + 1)
    for number in range(rounds(1000, 60)):
        text, start = rule_of(dice)
        rule = Recurrence.parse(text, start=start, duration=HOUR)
        freq = text.split("FREQ=")[1].split(";")[0]
        far = WINDOW_DAYS[freq] * 2
        since = start + timedelta(days=dice.randint(0, far), hours=dice.randint(0, 23))
        end = since + timedelta(days=WINDOW_DAYS[freq])

        def until_end(since: datetime | None, rule=rule, end=end) -> list[datetime]:
            return list(wall_times(rule, since=since, before=end, steps=Steps(10**7)))

        whole = [wall for wall in until_end(None) if wall >= since]
        assert [wall for wall in until_end(since) if wall >= since] == whole, f"{number}: {text}"


def test_a_rule_that_never_matches_is_known_in_few_steps() -> None:
    """Day parts that exclude each other, intervals that always miss, times that never come."""
    start = datetime(2025, 1, 6, 9)  # noqa: DTZ001 wall clock, a Monday
    for text in (
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=1,2,3",
        "FREQ=MONTHLY;BYMONTH=4,6,9,11;BYMONTHDAY=31",
        "FREQ=YEARLY;INTERVAL=2;BYMONTH=2;BYMONTHDAY=29",
        "FREQ=YEARLY;BYYEARDAY=366;BYMONTH=1",
        "FREQ=YEARLY;BYWEEKNO=10;BYMONTH=12",
        "FREQ=MONTHLY;INTERVAL=12;BYMONTH=2",
        "FREQ=WEEKLY;BYDAY=MO;BYSETPOS=2",
        "FREQ=DAILY;INTERVAL=7;BYDAY=TU",
        "FREQ=DAILY;BYSECOND=60",
        "FREQ=HOURLY;INTERVAL=2;BYHOUR=10",
        "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MINUTELY;INTERVAL=60;BYMINUTE=1",
        "FREQ=SECONDLY;INTERVAL=60;BYSECOND=30",
        "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=SECONDLY;BYSETPOS=2;BYSECOND=1",
    ):
        rule = Recurrence.parse(text, start=start, duration=HOUR)
        steps = Steps(60_000)
        assert next(wall_times(rule, steps=steps), None) is None, text


def test_a_rule_that_could_be_walked_for_ever_is_given_up() -> None:
    """Steps are counted: what is left of them ends the walk with a typed refusal."""
    rule = Recurrence.parse(
        "FREQ=SECONDLY;INTERVAL=86399;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO",
        start=datetime(2025, 1, 6, 9),  # noqa: DTZ001 wall clock
        duration=HOUR,
    )
    steps = Steps(2_000)
    try:
        taken = sum(1 for _ in wall_times(rule, steps=steps))
    except InvalidTimeError:
        taken = -1
    assert taken == -1
    assert steps.left < 0
