#!lua flags=allow-oom
-- queued -> expired for jobs past their deadline, at most 100 of them.
-- Returns the expired jobs (see `attempt_of`)
-- Keys: job:{id}, pending, turns:{owner}, owed, queued_work, running, deadlines, ended, undrawn, outcomes, usage:{owner},
--       work, status:{status}, owner:{owner}[:{status}], kept, webhooks, webhook:{event}, events
local expired = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', integer(now()), 'LIMIT', 0, 100)) do
  if known(id) then
    finish(id, 'expired')
    expired[#expired + 1] = attempt_of(id)
  end
end
return expired
