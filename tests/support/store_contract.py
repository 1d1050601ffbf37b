"""What the service asks of any S3, tried through its own code."""

import httpx

from jobs.objects.images import ImageStore

PNG = b"png"


def put_list_get_and_remove(images: ImageStore) -> None:
    """Raise where a bucket without jobs does something else than the service needs."""
    images.check()
    job_id = "job_1"
    keys = [images.key(job_id, attempt, index) for attempt in (1, 2) for index in range(3)]
    for key in keys:
        images.put_png(key, PNG)
    images.put_parameters(job_id, 2, {})
    assert _listed(images) == {*keys, *images.keys(job_id, 2, 3)}
    assert all(stored.bytes == 3 for page in images.uploads() for stored in page if stored.key in keys)
    assert images.get_png(keys[0], len(PNG)) == PNG
    url = images.presign(keys[0])
    assert httpx.get(url, trust_env=False).content == PNG
    images.delete_attempt(job_id, 2, images.keys(job_id, 2, 3))
    assert _listed(images) == set(keys[:3])
    images.delete_job(job_id, keys)  # of which three are gone
    images.delete_job(job_id)
    assert _listed(images) == set()
    assert httpx.get(url, trust_env=False).status_code == 404


def _listed(images: ImageStore) -> set[str]:
    return {stored.key for page in images.uploads() for stored in page}
