#!lua flags=allow-oom
-- running -> running: tells how many denoising steps are done, and asks whether to go on.
-- ARGV: id, worker, attempt, step
-- Returns 'ok', 'cancel' or 'lost'
-- Keys: job:{id}, events
local id, worker, attempt, step = unpack(ARGV)
local status, cancel, before = get(id, 'status', 'cancel_requested', 'step')

if not is_latest(id, worker, attempt) then return 'lost' end
if status == 'queued' then return 'ok' end
if status ~= 'running' then return 'lost' end
if cancel then return 'cancel' end
if before ~= step then
  redis.call('HSET', job_key(id), 'step', step)
  changed(id)
end
return 'ok'
