#!lua flags=allow-oom
-- What came of a try: the event goes (delivered), waits for its next try, or is given up (dead) and kept for a while.
-- ARGV: event, token of the claim, 'delivered' | 'retry' | 'dead', what went wrong, seconds until the next try or that a
--       dead event is kept
-- Returns 1, or 0 when another deliverer has it by now
-- Keys: webhooks, webhooks:dead, webhook:{event}
local event, token, outcome, error, seconds = unpack(ARGV)
local fields = key('webhook:' .. event)
local time = now()

if redis.call('HGET', fields, 'claimed') ~= token then return 0 end
redis.call('ZREM', key('webhooks'), event)
if outcome == 'delivered' then
  redis.call('DEL', fields)
  return 1
end
redis.call('HDEL', fields, 'claimed')
redis.call('HSET', fields, 'last_error', error)
if outcome == 'retry' then
  redis.call('ZADD', key('webhooks'), integer(time + seconds * 1000000), event)
else
  redis.call('ZADD', key('webhooks:dead'), integer(time), event)
  redis.call('EXPIRE', fields, seconds)
  redis.call('ZREMRANGEBYSCORE', key('webhooks:dead'), '-inf', integer(time - seconds * 1000000))
end
return 1
