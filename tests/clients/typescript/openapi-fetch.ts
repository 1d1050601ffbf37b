// The client of openapi-typescript and openapi-fetch: submits a job, polls it, lists it, and cancels another one.
import createClient from "openapi-fetch";
import type { paths } from "./openapi-typescript";

declare const process: { env: Record<string, string | undefined> };
const key = process.env.ZIMAGE_API_KEY;
const client = createClient<paths>({
  baseUrl: process.env.ZIMAGE_URL,
  headers: key ? { Authorization: `Bearer ${key}` } : {},
});

async function main(): Promise<void> {
  const submitted = await client.POST("/v1/jobs", { body: { prompt: "a red circle", width: 128, height: 128 } });
  if (!submitted.data) throw new Error(submitted.error.detail);
  let job = submitted.data;
  while (job.status === "queued" || job.status === "running") {
    const polled = await client.GET("/v1/jobs/{job_id}", {
      params: { path: { job_id: job.id }, header: { prefer: "wait=30" } },
    });
    if (!polled.data) throw new Error("polling failed");
    job = polled.data;
  }
  const listed = await client.GET("/v1/jobs", { params: { query: { status: "succeeded" } } });
  const other = await client.POST("/v1/jobs", { body: { prompt: "a red circle", num_inference_steps: 50, num_images: 8 } });
  if (!other.data) throw new Error(other.error.detail);
  const canceled = await client.POST("/v1/jobs/{job_id}/cancel", { params: { path: { job_id: other.data.id } } });
  console.log(
    JSON.stringify({
      status: job.status,
      image: job.images[0].url,
      listed: listed.data?.jobs.map((found) => found.id).includes(job.id),
      canceled: canceled.response.ok,
    }),
  );
}

main();
