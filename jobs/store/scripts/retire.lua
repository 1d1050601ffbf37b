#!lua flags=allow-oom
-- Names ended jobs past their retention to whoever removes them: their images first, then their records (delete.lua). Each is
-- named to one caller at a time, and again to another one later if it is still there: so a crash in between leaves nothing
-- behind that no record knows. From now on they are no dead letters: one that was retried would lose its images.
-- ARGV: seconds that ended jobs are kept, at most how many, seconds until they are named again
-- Returns their ids
-- Keys: ended, dead
local ttl, most, again = unpack(ARGV)
local due = now() - ttl * 1000000

local old = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', integer(due), 'LIMIT', 0, most)
for _, id in ipairs(old) do
  redis.call('ZADD', key('ended'), integer(due + again * 1000000), id)
  redis.call('ZREM', key('dead'), id)
end
return old
