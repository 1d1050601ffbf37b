#!lua flags=no-writes
-- One job, and where it stands in the queue, in one consistent look.
-- ARGV: id, owner
-- Returns {'found', record, jobs before it, work before it, rate of the live workers, live workers} with '' for jobs before
-- it when it is not queued; {'gone'} when deleted; {'unknown'}
-- Keys: job:{id}, pending, running, work, tombstone:{id}, workers, worker:{id}, rate
local id, owner = unpack(ARGV)
local EXACT = 1000  -- jobs ahead whose work is added up one by one; the rest counts as much on average

local status, job_owner = get(id, 'status', 'owner')
if not job_owner then
  return {redis.call('GET', key('tombstone:' .. id)) == owner and 'gone' or 'unknown'}
end
if job_owner ~= owner then return {'unknown'} end
local record = redis.call('HGETALL', job_key(id))
if status ~= 'queued' then return {'found', record, ''} end

local before = redis.call('ZRANK', key('pending'), id)
local ahead = {}
if before > 0 then ahead = redis.call('ZRANGE', key('pending'), 0, math.min(before, EXACT) - 1) end
local work = work_of(ahead)
if before > EXACT then work = work * before / EXACT end

for _, running in ipairs(redis.call('ZRANGE', key('running'), 0, EXACT - 1)) do
  local step, total = get(running, 'step', 'total')
  local left = total and 1 - (tonumber(step) or 0) / tonumber(total) or 0
  work = work + left * (tonumber(redis.call('HGET', key('work'), running)) or 0)
end

local rate, workers = measured_rate()
return {'found', record, tostring(before), tostring(work), tostring(rate), workers}
