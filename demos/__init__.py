"""Runnable stories over the front doors of the three packages; `python -m demos NAME`.

A demo runs real processes over loopback, is seeded, ends by itself within a minute, and decides its
exit status by checks that it prints. None of it is in the wheel.
"""
