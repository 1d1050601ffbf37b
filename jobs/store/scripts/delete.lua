#!lua flags=allow-oom
-- ended -> gone, with a tombstone that tells 410 from 404 for a while. The caller has removed the images,
-- once nobody could retry the job any more. Of an owner's tombstones the latest are kept: else one who submits and deletes
-- for long would fill Redis. What is left of an older job, its idempotency key too, goes.
-- ARGV: id, owner ('' for any), seconds that the tombstone lasts
-- Returns 'deleted', 'active' or 'unknown'
-- Keys: job:{id}, pending, deadlines, running, ended, undrawn, dead, work, kept, status:{status}, owner:{owner}[:{status}],
--       tombstone:{id}, tombstones:{owner}, idempotency:{owner}:{key}
local id, owner, tombstone_ttl = unpack(ARGV)
local MOST_TOMBSTONES = 10000
local status, job_owner, created, bytes, idempotency = get(id, 'status', 'owner', 'created_at', 'bytes', 'idempotency')

if owner == '' then known(id) end  -- or it would be named again for ever
if not job_owner or (owner ~= '' and owner ~= job_owner) then return 'unknown' end
if status == 'queued' or status == 'running' then return 'active' end
index('ZREM', id, status, created, job_owner)
redis.call('ZREM', key('owner:' .. job_owner), id)
redis.call('ZREM', key('ended'), id)
redis.call('ZREM', key('undrawn'), id)
redis.call('ZREM', key('dead'), id)
redis.call('DEL', job_key(id))
keep(job_owner, bytes and -bytes)

local tombstones = key('tombstones:' .. job_owner)
redis.call('SET', key('tombstone:' .. id), idempotency and job_owner .. ' ' .. idempotency or job_owner, 'EX', tombstone_ttl)
redis.call('ZADD', tombstones, integer(now()), id)
redis.call('EXPIRE', tombstones, tombstone_ttl)
for _, old in ipairs(redis.call('ZRANGE', tombstones, 0, -1 - MOST_TOMBSTONES)) do
  local old_idempotency = (redis.call('GET', key('tombstone:' .. old)) or ''):match(' (%S+)$')
  if old_idempotency then redis.call('DEL', key('idempotency:' .. job_owner .. ':' .. old_idempotency)) end
  redis.call('DEL', key('tombstone:' .. old))
  redis.call('ZREM', tombstones, old)
end
redis.call('ZREMRANGEBYSCORE', tombstones, '-inf', integer(now() - tombstone_ttl * 1000000))
return 'deleted'
