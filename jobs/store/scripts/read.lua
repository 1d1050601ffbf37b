#!lua flags=no-writes
-- One job, and where it stands in the queue, in one consistent look.
-- ARGV: id, owner
-- Returns {'found', what `describe` returns}; {'gone'} when deleted; {'unknown'}
-- Keys: job:{id}, pending, running, work, tombstone:{id}, workers, worker:{id}, rate
local id, owner = unpack(ARGV)

local job_owner = get(id, 'owner')
if not job_owner then
  local tombstone = redis.call('GET', key('tombstone:' .. id)) or ''
  return {tombstone:match('^%S+') == owner and 'gone' or 'unknown'}
end
if job_owner ~= owner then return {'unknown'} end
return {'found', describe(id)}
