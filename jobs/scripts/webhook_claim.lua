#!lua flags=allow-oom
-- The event that has been due for longest goes to one deliverer: nobody else gets it before the lease is over.
-- ARGV: lease (us), token of this claim (unique)
-- Returns {event, its fields (field, value, ...)}; {} when none is due
-- Keys: webhooks, webhook:{event}
local lease, token = unpack(ARGV)
local time = now()

local event = redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', integer(time), 'LIMIT', 0, 1)[1]
if not event then return {} end
redis.call('ZADD', key('webhooks'), integer(time + lease), event)
redis.call('HINCRBY', key('webhook:' .. event), 'tries', 1)
redis.call('HSET', key('webhook:' .. event), 'claimed', token)
return {event, redis.call('HGETALL', key('webhook:' .. event))}
