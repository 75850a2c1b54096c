"""Work queues: the next ready piece of work, to exactly one worker.

A job is a few keys; the one that says where it stands is its place (`job`).  What moves a job is
decided on a draft of one commit (`draft`).  A worker is a lease, and the jobs that rest on it
(`worker`).  `queue` is what people use, and serves together what is asked at the same time.  None
of the arrows goes back up::

    queue -> worker -> draft -> job
"""

from transactional.queues.job import (
    Attempt,
    ClaimLostError,
    DependencyCycleError,
    JobExistsError,
    JobInfo,
    JobState,
    JobStateError,
    QueueConfig,
    UnknownJobError,
)
from transactional.queues.queue import LEASE_S, Depth, JobChange, WorkQueue, queue_names
from transactional.queues.worker import RETRY_IN_S_MAX, Job

__all__ = [
    "LEASE_S",
    "RETRY_IN_S_MAX",
    "Attempt",
    "ClaimLostError",
    "DependencyCycleError",
    "Depth",
    "Job",
    "JobChange",
    "JobExistsError",
    "JobInfo",
    "JobState",
    "JobStateError",
    "QueueConfig",
    "UnknownJobError",
    "WorkQueue",
    "queue_names",
]
