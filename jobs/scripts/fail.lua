#!lua flags=allow-oom
-- running -> failed (or canceled, when its client asked for that first).
-- ARGV: id, worker, attempt, error (JSON)
-- Returns 'failed', 'canceled' or 'refused'; the same again when it is sent again after a lost answer
local id, worker, attempt, error = unpack(ARGV)
local status, cancel = get(id, 'status', 'cancel_requested')

if not is_latest(id, worker, attempt) then return 'refused' end
if status == 'failed' or status == 'canceled' then return status end
if status ~= 'running' and status ~= 'queued' then return 'refused' end
if cancel then
  finish(id, 'canceled')
  return 'canceled'
end
finish(id, 'failed', 'error', error)
return 'failed'
