#!lua flags=allow-oom
-- queued -> canceled at once; running: a flag that the worker sees before its next step. From then on the job can only end
-- as canceled (or be lost with its worker, and then end as canceled).
-- ARGV: id, owner
-- Returns {'canceled' | 'requested' | 'ended' | 'unknown', status}; behind it, where this call ended the job, see `attempt_of`
-- Keys: job:{id}, pending, turns:{owner}, owed, queued_work, running, deadlines, ended, undrawn, outcomes, usage:{owner},
--       work, status:{status}, owner:{owner}[:{status}], kept, webhooks, webhook:{event}, events
local id, owner = unpack(ARGV)
local status, job_owner = get(id, 'status', 'owner')

if job_owner ~= owner then return {'unknown', ''} end
if status == 'canceled' then return {'canceled', status} end
if status == 'queued' then
  finish(id, 'canceled')
  return {'canceled', 'canceled', attempt_of(id)}
end
if status == 'running' then
  redis.call('HSET', job_key(id), 'cancel_requested', 1)
  changed(id)
  return {'requested', status}
end
return {'ended', status}
