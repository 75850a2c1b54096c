"""The project's own tests: a mirror of the packages, plus whole-house rules."""
