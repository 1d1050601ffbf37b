"""The GPU worker: hears the doorbell, claims a job, draws it on the GPU thread, uploads and commits it."""
