#!lua flags=allow-oom
-- What came of a try: the event goes (delivered), waits for its next try, or is given up (dead), see retire.lua.
-- ARGV: event, token of the claim, 'delivered' | 'retry' | 'dead', what went wrong, seconds until the next try
-- Returns 1, or 0 when another deliverer has it by now
-- Keys: kept, webhooks, webhooks:dead, webhook:{event}
local event, token, outcome, error, seconds = unpack(ARGV)
local fields = key('webhook:' .. event)
local time = now()

if redis.call('HGET', fields, 'claimed') ~= token then return 0 end
redis.call('ZREM', key('webhooks'), event)
if outcome == 'delivered' then
  drop_event(event)
  return 1
end
redis.call('HDEL', fields, 'claimed')
redis.call('HSET', fields, 'last_error', error)
if outcome == 'retry' then
  redis.call('ZADD', key('webhooks'), integer(time + seconds * 1000000), event)
else
  redis.call('ZADD', key('webhooks:dead'), integer(time), event)
end
return 1
