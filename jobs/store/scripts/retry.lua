#!lua
-- failed -> queued: an operator gives a dead letter another chance, with all its losses forgiven. Its attempts go on
-- counting, and no worker of before is its worker any more: what that one uploaded may have been removed (`zimage prune`).
-- ARGV: id, cost, seconds until it expires
-- Returns 'queued' or 'unknown' (it is no dead letter)
-- Keys: job:{id}, pending, turns:{owner}, clocks, owed, queued_work, passed, running, deadlines, ended, dead, work,
--       status:{status}, owner:{owner}[:{status}], events
local id, cost, ttl = unpack(ARGV)

if redis.call('ZREM', key('dead'), id) == 0 then return 'unknown' end
redis.call('ZREM', key('ended'), id)
redis.call('HDEL', job_key(id), 'finished_at', 'error', 'worker')
redis.call('HSET', job_key(id), 'losses', 0, 'deadline', integer(now() + ttl * 1000000))
redis.call('HSET', key('work'), id, cost)
queue(id)
return 'queued'
