#!lua flags=no-writes
-- The whole queue in one consistent look.
-- Returns {live workers, dead letters, seconds that the oldest queued job has waited, {status, number, status, number, ...},
--       {outcome, number, outcome, number, ...}}
-- Keys: status:{status}, workers, dead, outcomes
local time = now()
local oldest = redis.call('ZRANGE', key('status:queued'), 0, 0, 'WITHSCORES')
local counts = {}
for _, status in ipairs({'queued', 'running', 'succeeded', 'failed', 'canceled', 'expired'}) do
  counts[#counts + 1] = status
  counts[#counts + 1] = redis.call('ZCARD', key('status:' .. status))
end
return {
  redis.call('ZCOUNT', key('workers'), integer(time), '+inf'),
  redis.call('ZCARD', key('dead')),
  tostring(oldest[2] and (time - oldest[2]) / 1000000 or 0),
  counts,
  redis.call('HGETALL', key('outcomes')),
}
