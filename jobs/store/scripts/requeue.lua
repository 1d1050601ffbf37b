#!lua flags=allow-oom
-- running -> queued, at its old place and without counting a loss: a worker hands a job back (or, when its client wants it
-- stopped, running -> canceled).
-- ARGV: id, worker, attempt, stages (JSON), for a job that ends
-- Returns 'queued', 'canceled' or 'refused'
-- Keys: job:{id}, pending, turns:{owner}, clocks, owed, queued_work, passed, running, deadlines, ended, undrawn, outcomes,
--       usage:{owner}, work, status:{status}, owner:{owner}[:{status}], kept, webhooks, webhook:{event}, events
local id, worker, attempt, stages = unpack(ARGV)
local status, cancel = get(id, 'status', 'cancel_requested')

if not is_latest(id, worker, attempt) then return 'refused' end
if status == 'canceled' or status == 'queued' then return status end
if status ~= 'running' then return 'refused' end
if cancel then
  finish(id, 'canceled', 'stages', stages)
  return 'canceled'
end
queue(id)
return 'queued'
