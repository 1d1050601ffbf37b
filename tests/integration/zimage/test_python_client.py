"""The clients against the whole service, as scripts use them; README's examples among them."""

import asyncio
import hashlib
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from cli.stack import Stack
from support.root import ROOT
from zimage import AsyncZImageClient, Job, ServiceError

README = ROOT / "README.md"
EXAMPLES = re.findall(r"```python\n([^`]*from zimage import[^`]*)```", README.read_text())


@pytest.mark.parametrize(
    ("code", "files"),
    list(zip(EXAMPLES, [["heart.png"], ["ring.png", "stars.png"]], strict=True)),
    ids=["sync", "async"],
)
def test_the_readme_s_examples_draw_their_pictures(
    stack: Stack, code: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://127.0.0.1:8000", stack.api_url), {})  # noqa: S102
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    for file in files:
        with Image.open(tmp_path / file) as picture:
            assert (picture.format, picture.size) == ("PNG", (128, 128))


def test_jobs_are_drawn_canceled_listed_and_deleted_at_once(stack: Stack) -> None:
    async def draw(client: AsyncZImageClient, seed: int) -> Job:
        submitted = await client.submit(
            {"prompt": f"cat {seed}", "width": 64, "height": 64, "num_inference_steps": 2, "seed": seed}
        )
        jobs = [job async for job in client.progress(submitted["id"])]
        (image,) = jobs[-1]["images"]
        content = await client.download(image)
        assert hashlib.sha256(content).hexdigest() == image["sha256"]
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (64, 64)
        return jobs[-1]

    async def give_up(client: AsyncZImageClient) -> Job:
        job = await client.submit({"prompt": "a long job", "width": 512, "height": 512, "num_inference_steps": 50})
        await client.cancel(job["id"])
        return await client.get(job["id"], wait=60)

    async def all_at_once() -> None:
        async with AsyncZImageClient(stack.api_url) as client:
            canceled, *drawn = await asyncio.gather(give_up(client), *(draw(client, seed) for seed in range(4)))
            assert canceled["status"] == "canceled"
            assert [job["status"] for job in drawn] == ["succeeded"] * 4
            assert [job["images"][0]["seed"] for job in drawn] == [0, 1, 2, 3]

            listed = [job["id"] async for job in client.list("succeeded", page_size=2)]
            assert {job["id"] for job in drawn} <= set(listed)
            await asyncio.gather(*(client.delete(job["id"]) for job in drawn))
            with pytest.raises(ServiceError) as gone:
                await client.get(drawn[0]["id"])
            assert gone.value.status == 410

    asyncio.run(all_at_once())
