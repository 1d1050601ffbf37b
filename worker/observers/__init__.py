"""Who is told of a job's life in this worker: Prometheus, the log, and traces. Nothing depends on what they do."""
