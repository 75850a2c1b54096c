"""The linearizable store under test: every engine, every recipe, every fault."""
