// The client of @hey-api/openapi-ts: submits a job, polls it, lists it, and cancels another one.
import { client } from "./hey-api/client.gen";
import { cancelJob, getJob, listJobs, submitJob } from "./hey-api/sdk.gen";

declare const process: { env: Record<string, string | undefined> };

client.setConfig({ baseUrl: process.env.ZIMAGE_URL, auth: process.env.ZIMAGE_API_KEY, throwOnError: true });

async function main(): Promise<void> {
  let { data: job } = await submitJob({ body: { prompt: "a red circle", width: 128, height: 128 }, throwOnError: true });
  while (job.status === "queued" || job.status === "running") {
    const path = { job_id: job.id };
    ({ data: job } = await getJob({ path, headers: { prefer: "wait=30" }, throwOnError: true }));
  }
  const { data: page } = await listJobs({ query: { status: "succeeded" }, throwOnError: true });
  const { data: other } = await submitJob({
    body: { prompt: "a red circle", num_inference_steps: 50, num_images: 8 },
    throwOnError: true,
  });
  const canceled = await cancelJob({ path: { job_id: other.id }, throwOnError: true });
  console.log(
    JSON.stringify({
      status: job.status,
      image: job.images[0].url,
      listed: page.jobs.map((found) => found.id).includes(job.id),
      canceled: canceled.response.ok,
    }),
  );
}

main();
