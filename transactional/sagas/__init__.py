"""Sagas: work in several steps that is completed or compensated."""
