#!lua flags=allow-oom
-- Names ended jobs past their retention to whoever removes them: their images first, then their records (delete.lua). Each is
-- named to one caller at a time, and again to another one later if it is still there: so a crash in between leaves nothing
-- behind that no record knows. From now on they are no dead letters: one that was retried would lose its images.
-- Webhooks' events that were given up as long ago go at once.
-- ARGV: seconds that ended jobs are kept, seconds that canceled and expired ones are, at most how many, seconds until they
--       are named again
-- Returns their ids
-- Keys: ended, undrawn, dead, kept, webhooks:dead, webhook:{event}
local ttl, undrawn_ttl, most, again = unpack(ARGV)
local old = {}

local function take(index, seconds)
  local due = now() - seconds * 1000000
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', integer(due), 'LIMIT', 0, most - #old)) do
    old[#old + 1] = id
    redis.call('ZADD', index, integer(due + again * 1000000), id)
    redis.call('ZADD', key('ended'), 'XX', integer(due + again * 1000000), id)
    redis.call('ZREM', key('dead'), id)
  end
end

take(key('undrawn'), undrawn_ttl)
take(key('ended'), ttl)

local given_up = integer(now() - ttl * 1000000)
for _, event in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks:dead'), '-inf', given_up, 'LIMIT', 0, most)) do
  drop_event(event)
  redis.call('ZREM', key('webhooks:dead'), event)
end
return old
