#!lua flags=allow-oom
-- running -> succeeded (or canceled, when its client asked for that first); also queued -> succeeded for a result that was
-- held through an outage, as long as nobody else has claimed the job.
-- ARGV: id, worker, attempt, images (JSON), stages (JSON), peak VRAM (bytes), warnings (JSON)
-- Returns 'succeeded', 'canceled' or 'refused'; the same again when it is sent again after a lost answer
local id, worker, attempt, images, stages, peak, warnings = unpack(ARGV)
local status, cancel, steps = get(id, 'status', 'cancel_requested', 'total')

if not is_latest(id, worker, attempt) then return 'refused' end
if status == 'succeeded' or status == 'canceled' then return status end
if status ~= 'running' and status ~= 'queued' then return 'refused' end
if cancel then
  finish(id, 'canceled')
  return 'canceled'
end
finish(id, 'succeeded', 'images', images, 'stages', stages, 'peak_vram_bytes', peak, 'warnings', warnings, 'step', steps)
return 'succeeded'
