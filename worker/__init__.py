"""The GPU worker: hears the doorbell, claims a job, has it drawn, uploads and commits it."""

import os

# Before torch is imported: its CPU threads would otherwise spin while they wait for each other, and on a machine that
# has other work too (the API, Redis, S3) a step of the small model then takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
