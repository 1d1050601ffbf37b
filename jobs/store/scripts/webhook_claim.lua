#!lua flags=allow-oom
-- An event goes to one deliverer: nobody else gets it before the lease is over. Due events queue up by owner, and owners take
-- turns; so one with many events holds up no other, and those with enough under way are passed over whatever they have.
-- ARGV: lease (us), token of this claim (unique), owners to pass over...
-- Returns {event, its fields (field, value, ...)}; {} when none is due
-- Keys: webhooks, webhooks:due:{owner}, webhooks:owners, webhook:{event}
local lease, token = ARGV[1], ARGV[2]
local passed_over = {}
for i = 3, #ARGV do passed_over[ARGV[i]] = true end
local time = now()
local QUEUED = 600 * 1000000  -- until an event that still queues up is looked at again

local due = redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', integer(time), 'WITHSCORES', 'LIMIT', 0, 1000)
for i = 1, #due, 2 do
  local event, since = due[i], due[i + 1]
  local owner = redis.call('HGET', key('webhook:' .. event), 'owner') or ''
  redis.call('ZADD', key('webhooks:due:' .. owner), 'NX', since, event)
  redis.call('ZADD', key('webhooks:owners'), 'NX', integer(time), owner)
  redis.call('ZADD', key('webhooks'), integer(time + QUEUED), event)
end

for _, owner in ipairs(redis.call('ZRANGE', key('webhooks:owners'), 0, -1)) do
  if not passed_over[owner] then
    local queue = key('webhooks:due:' .. owner)
    local event
    repeat  -- until one that was not settled late, by a deliverer whose lease was over
      event = redis.call('ZPOPMIN', queue)[1]
    until not event or redis.call('ZSCORE', key('webhooks'), event)
    if redis.call('EXISTS', queue) == 1 then
      redis.call('ZADD', key('webhooks:owners'), integer(time), owner)
    else
      redis.call('ZREM', key('webhooks:owners'), owner)
    end
    if event then
      redis.call('ZADD', key('webhooks'), integer(time + lease), event)
      redis.call('HINCRBY', key('webhook:' .. event), 'tries', 1)
      redis.call('HSET', key('webhook:' .. event), 'claimed', token)
      return {event, redis.call('HGETALL', key('webhook:' .. event))}
    end
  end
end
return {}
