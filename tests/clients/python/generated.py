"""The client of openapi-python-client: submits a job, polls it, lists it, and cancels another one."""

import json

from connection import client
from zimage_service_client.api.jobs import cancel_job, get_job, list_jobs, submit_job
from zimage_service_client.models import JobPage, JobRequest, JobStatus, JobView

job = submit_job.sync(client=client, body=JobRequest(prompt="a red circle", width=128, height=128))
assert isinstance(job, JobView), job
while job.status in (JobStatus.QUEUED, JobStatus.RUNNING):
    job = get_job.sync(job.id, client=client, prefer="wait=30")
    assert isinstance(job, JobView), job
page = list_jobs.sync(client=client, status=JobStatus.SUCCEEDED)
assert isinstance(page, JobPage), page
other = submit_job.sync(client=client, body=JobRequest(prompt="a red circle", num_inference_steps=50, num_images=8))
assert isinstance(other, JobView), other
canceled = cancel_job.sync(other.id, client=client)
print(
    json.dumps(
        {
            "status": job.status,
            "image": job.images[0].url,
            "listed": job.id in [found.id for found in page.jobs],
            "canceled": isinstance(canceled, JobView),
        }
    )
)
