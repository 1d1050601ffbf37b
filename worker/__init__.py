"""The GPU worker: hears the doorbell, claims a job, has it drawn, uploads and commits it."""

import os

# Before torch is imported: its CPU threads would otherwise spin while they wait for each other, and on a machine that
# has other work too (the API, Redis, S3) a step of the small model then takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before it too: pictures of many sizes would otherwise leave holes in the GPU's memory, and on a card of 16 GB a large
# one then finds no room. `PYTORCH_CUDA_ALLOC_CONF` is the older name.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
