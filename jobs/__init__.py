"""What the API and the workers share: the job, its store in Redis, images in S3, settings and events.

Imports nothing else of the project, and never torch: the API's image stays small.
"""

__version__ = "0.2.0"
