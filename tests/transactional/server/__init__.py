"""Tests of the HTTP authority."""
