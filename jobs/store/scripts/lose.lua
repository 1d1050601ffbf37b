#!lua flags=allow-oom
-- running -> queued, failed or canceled: a worker that is about to end because of this job says so itself: see `lose`.
-- ARGV: id, worker, attempt, losses that fail a job, error (JSON) of such a job
-- Returns 'queued', 'failed', 'canceled' or 'refused'
-- Keys: job:{id}, pending, turns:{owner}, clocks, owed, queued_work, passed, running, deadlines, ended, undrawn, outcomes,
--       usage:{owner}, dead, work, status:{status}, owner:{owner}[:{status}], kept, webhooks, webhook:{event}, events
local id, worker, attempt, max_losses, error = unpack(ARGV)

if not is_latest(id, worker, attempt) or get(id, 'status') ~= 'running' then return 'refused' end
return lose(id, max_losses, error)
