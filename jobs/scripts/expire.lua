#!lua flags=allow-oom
-- queued -> expired for jobs past their deadline, at most 100 of them.
-- Returns the expired jobs (see `attempt_of`)
-- Keys: job:{id}, pending, running, deadlines, ended, outcomes, work, status:{status}, owner:{owner}[:{status}], webhooks,
--       webhook:{event}, events
local expired = redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', integer(now()), 'LIMIT', 0, 100)
for n, id in ipairs(expired) do
  finish(id, 'expired')
  expired[n] = attempt_of(id)
end
return expired
