"""Tests of the engines, and of what each of them promises."""
