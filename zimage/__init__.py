"""The client of the service: typed, and all that it needs is httpx."""

from zimage.client import AsyncZImageClient, ZImageClient
from zimage.contract import Image, Job, JobPage, JobRequest, ServiceError

__all__ = ["AsyncZImageClient", "Image", "Job", "JobPage", "JobRequest", "ServiceError", "ZImageClient"]
