#!lua flags=allow-oom
-- running -> succeeded (or canceled, when its client asked for that first).
-- ARGV: id, worker, attempt, images (JSON), stages (JSON), peak VRAM (bytes), all warnings (JSON)
-- Returns 'succeeded', 'canceled' or 'refused'
-- Keys: job:{id}, pending, turns:{owner}, owed, queued_work, running, deadlines, ended, undrawn, outcomes, usage:{owner},
--       work, status:{status}, owner:{owner}[:{status}], kept, webhooks, webhook:{event}, events
local id, worker, attempt, images, stages, peak, warnings = unpack(ARGV)
return settle(id, worker, attempt, 'succeeded', stages,
  'images', images, 'peak_vram_bytes', peak, 'warnings', warnings, 'step', get(id, 'total'))
