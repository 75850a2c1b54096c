"""The suite that says whether an engine is one: for stores of your own.

An engine implements `transactional.Store`; the recipes need nothing else, and rely on every word of
it.  `conformance` makes a test of each thing that they rely on::

    class MyEngine:
        def __init__(self, directory): ...                  # one set of data, empty
        async def client(self) -> Store: ...                # another handle on the same data
        async def stop(self): ...                           # close them all

    test_my_engine = conformance(MyEngine)

pytest runs it as one test for each of `CASES`.  Needs the extra `[testing]`.  What it cannot do is
kill your server: what becomes of a commit whose answer is lost is asked by op_id alone, and the
faults are yours to make (docs/howto/writing-an-engine.md).
"""

from transactional.testing.cases import CASES, Engine
from transactional.testing.conformance import conformance

__all__ = ["CASES", "Engine", "conformance"]
