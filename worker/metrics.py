"""The worker's Prometheus metrics."""

from prometheus_client import Counter, Gauge, Histogram

from pipeline.memory_plan import PARTS

_STAGE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 300)
# A job may wait for long: what lies above the last bucket is told as that one.
_JOB_SECONDS = (0.01, 0.05, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)

job_seconds = Histogram("zimage_job_seconds", "Accepted to finished by this worker.", ["outcome"], buckets=_JOB_SECONDS)
queue_wait_seconds = Histogram(
    "zimage_queue_wait_seconds",
    "Accepted until the device begins, but for what attempts took before.",
    buckets=_JOB_SECONDS,
)
stage_seconds = Histogram("zimage_stage_seconds", "Time of each stage of a job.", ["stage"], buckets=_STAGE_SECONDS)
prompts_total = Counter("zimage_prompts_total", "Prompts by where their features came from.", ["features"])
steps_total = Counter(
    "zimage_steps_total",
    "Denoising steps of images by whether all their layers were computed or some skipped.",
    ["layers"],
)
images_total = Counter("zimage_images_total", "Images committed, by megapixels: see `size_label`.", ["size"])
key_images_total = Counter("zimage_key_images_total", "Images committed, by API key.", ["key"])
key_pixels_total = Counter("zimage_key_pixels_total", "Pixels of images committed, by API key.", ["key"])
key_gpu_seconds_total = Counter(
    "zimage_key_gpu_seconds_total", "Time that the GPU thread worked on jobs, however they ended, by API key.", ["key"]
)
vram_peak_bytes = Gauge("zimage_vram_peak_bytes", "Most GPU memory allocated during the last job; 0 on a CPU.")
vram_reserved_bytes = Gauge("zimage_vram_reserved_bytes", "GPU memory held by the allocator; 0 on a CPU.")
vram_total_bytes = Gauge("zimage_vram_total_bytes", "GPU memory of the worker's device; 0 on a CPU.")
plan_info = Gauge("zimage_plan_info", "1; where each part's weights are between its stages.", PARTS)
plan_budget_bytes = Gauge("zimage_plan_budget_bytes", "GPU memory that the worker keeps within; 0: all that is free.")
plan_peak_bytes = Gauge(
    "zimage_plan_peak_bytes", "Most GPU memory that a picture of 1024x1024 is predicted to take, whatever is asked for."
)
plan_extra_seconds = Gauge(
    "zimage_plan_extra_seconds",
    "Predicted cost of weights that come and go: of a picture of 1024x1024, of a prompt that is not remembered.",
    ["of"],
)
server_errors_total = Counter(
    "zimage_server_errors_total", "Calls that a server (redis, s3) did not answer.", ["server"]
)
doorbell_dropped_total = Counter(
    "zimage_doorbell_dropped_total", "Messages on the doorbell's queue that are no ring of it, and were dropped."
)
gpu_busy_seconds_total = Counter("zimage_gpu_busy_seconds_total", "Time that the GPU thread worked on jobs.")
model_load_seconds = Gauge("zimage_model_load_seconds", "Time from start to a loaded and warm model.")
job_attempts_total = Counter("zimage_job_attempts_total", "Attempts at jobs by how they ended.", ["outcome"])
worker_info = Gauge("zimage_worker_info", "1; what this worker serves.", ["model", "device", "quantization", "product"])


# Up to the squares of 256, 512, 768, 1024 and 1536 pixels; in megapixels, of 10⁶ pixels.
_MEGAPIXELS = (0.07, 0.3, 0.6, 1.1, 2.4)


def size_label(width: int, height: int) -> str:
    """Tell how large an image is, in one of few words: a series for each size would be as many as clients ask for."""
    pixels = width * height
    least = next((most for most in _MEGAPIXELS if pixels <= most * 1e6), None)
    return f"<={least}MP" if least else f">{_MEGAPIXELS[-1]}MP"


# Series exist from the start, or the first failure would be no increase.
for _outcome in ("succeeded", "failed", "canceled"):
    job_seconds.labels(_outcome)
for _layers in ("computed", "skipped"):
    steps_total.labels(_layers)
for _server in ("redis", "s3"):
    server_errors_total.labels(_server)
