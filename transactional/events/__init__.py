"""The event log: streams of what happened, in one total order."""
