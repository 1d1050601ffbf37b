"""Who is told of a job's life in this worker: Prometheus, the log, and traces. No job depends on what they do."""
