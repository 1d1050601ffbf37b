#!lua flags=allow-oom
-- running -> failed (or canceled, when its client asked for that first).
-- ARGV: id, worker, attempt, error (JSON), stages (JSON)
-- Returns 'failed', 'canceled' or 'refused'
-- Keys: job:{id}, pending, turns:{owner}, owed, queued_work, running, deadlines, ended, undrawn, outcomes, usage:{owner},
--       work, status:{status}, owner:{owner}[:{status}], kept, webhooks, webhook:{event}, events
local id, worker, attempt, error, stages = unpack(ARGV)
return settle(id, worker, attempt, 'failed', stages, 'error', error)
