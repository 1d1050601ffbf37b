#!lua flags=no-writes
-- The whole queue in one consistent look.
-- Returns {live workers, dead letters, seconds that the oldest queued job has waited, {status, number, status, number, ...},
--       {outcome, number, outcome, number, ...}, what keeps all live workers from their work ('' where one can work)}
-- Keys: status:{status}, workers, worker:{id}, dead, outcomes
local time = now()
local workers = redis.call('ZRANGE', key('workers'), integer(time), '+inf', 'BYSCORE')
local trouble = ''
for _, worker in ipairs(workers) do
  trouble = redis.call('HGET', key('worker:' .. worker), 'trouble') or ''
  if trouble == '' then break end
end
local oldest = redis.call('ZRANGE', key('status:queued'), 0, 0, 'WITHSCORES')
local counts = {}
for _, status in ipairs({'queued', 'running', 'succeeded', 'failed', 'canceled', 'expired'}) do
  counts[#counts + 1] = status
  counts[#counts + 1] = redis.call('ZCARD', key('status:' .. status))
end
return {
  #workers,
  redis.call('ZCARD', key('dead')),
  tostring(oldest[2] and (time - oldest[2]) / 1000000 or 0),
  counts,
  redis.call('HGETALL', key('outcomes')),
  trouble,
}
