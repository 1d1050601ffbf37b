#!lua
-- An operator lets an event that waits or was given up be tried now, and from then on as if it were new.
-- ARGV: event
-- Returns 'pending', 'busy' (a deliverer has it) or 'unknown'
-- Keys: webhooks, webhooks:dead, webhook:{event}
local event = ARGV[1]
local fields = key('webhook:' .. event)
local time = now()

if redis.call('EXISTS', fields) == 0 then return 'unknown' end
local due = redis.call('ZSCORE', key('webhooks'), event)
if due and tonumber(due) > time and redis.call('HEXISTS', fields, 'claimed') == 1 then return 'busy' end
redis.call('ZREM', key('webhooks:dead'), event)
redis.call('ZADD', key('webhooks'), integer(time), event)
redis.call('HDEL', fields, 'tries')
redis.call('PERSIST', fields)
return 'pending'
