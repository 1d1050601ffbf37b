#!lua flags=allow-oom
-- queued -> expired for jobs past their deadline. Ended jobs past their retention are only named: their images go first,
-- then their records (delete.lua), so that a crash in between leaves nothing behind that no record knows.
-- ARGV: seconds that ended jobs are kept
-- Returns the expired jobs (see `attempt_of`) and the ids past their retention, at most 100 of each
-- Keys: job:{id}, pending, running, deadlines, ended, work, status:{status}, owner:{owner}[:{status}], webhooks,
--       webhook:{event}, events
local ttl = ARGV[1]
local time = now()

local expired = redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', integer(time), 'LIMIT', 0, 100)
for n, id in ipairs(expired) do
  finish(id, 'expired')
  expired[n] = attempt_of(id)
end

local old = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', integer(time - ttl * 1000000), 'LIMIT', 0, 100)
return {expired, old}
