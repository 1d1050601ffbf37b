#!lua flags=no-writes
-- One job, and where it stands in the queue, in one consistent look.
-- ARGV: id, owner
-- Returns {'found', record, jobs before it, work before it, rate of the live workers, live workers} with '' for jobs before
-- it when it is not queued; {'gone'} when deleted; {'unknown'}
-- Keys: job:{id}, pending, running, work, tombstone:{id}, workers, worker:{id}, rate
local id, owner = unpack(ARGV)

local status, job_owner = get(id, 'status', 'owner')
if not job_owner then
  local tombstone = redis.call('GET', key('tombstone:' .. id)) or ''
  return {tombstone:match('^%S+') == owner and 'gone' or 'unknown'}
end
if job_owner ~= owner then return {'unknown'} end
local record = redis.call('HGETALL', job_key(id))
if status ~= 'queued' then return {'found', record, ''} end

local before = redis.call('ZRANK', key('pending'), id)
local rate, workers = measured_rate()
return {'found', record, tostring(before), tostring(work_before(before)(before)), tostring(rate), workers}
