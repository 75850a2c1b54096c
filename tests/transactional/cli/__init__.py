"""Tests of `python -m transactional`."""
