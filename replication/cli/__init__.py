"""What the verbs of `python -m replication` do."""
