#!lua flags=no-writes
-- The whole queue in one consistent look.
-- Returns {live workers, dead letters, seconds that the oldest queued job has waited, status, number, status, number, ...}
-- Keys: status:{status}, workers, dead
local time = now()
local oldest = redis.call('ZRANGE', key('status:queued'), 0, 0, 'WITHSCORES')
local result = {
  redis.call('ZCOUNT', key('workers'), integer(time), '+inf'),
  redis.call('ZCARD', key('dead')),
  tostring(oldest[2] and (time - oldest[2]) / 1000000 or 0),
}
for _, status in ipairs({'queued', 'running', 'succeeded', 'failed', 'canceled', 'expired'}) do
  result[#result + 1] = status
  result[#result + 1] = redis.call('ZCARD', key('status:' .. status))
end
return result
