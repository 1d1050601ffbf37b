"""What lies in S3: a job's images and parameters, for how long, and what is left over."""
