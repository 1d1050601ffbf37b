#!lua flags=allow-oom
-- ended -> gone, with a tombstone that tells 410 from 404 for a while. The caller has removed the images,
-- once nobody could retry the job any more.
-- ARGV: id, owner ('' for any), seconds that the tombstone lasts
-- Returns 'deleted', 'active' or 'unknown'
-- Keys: job:{id}, pending, deadlines, running, ended, dead, work, status:{status}, owner:{owner}[:{status}], tombstone:{id}
local id, owner, tombstone_ttl = unpack(ARGV)
local status, job_owner, created = get(id, 'status', 'owner', 'created_at')

if owner == '' then known(id) end  -- or it would be named again for ever
if not job_owner or (owner ~= '' and owner ~= job_owner) then return 'unknown' end
if status == 'queued' or status == 'running' then return 'active' end
index('ZREM', id, status, created, job_owner)
redis.call('ZREM', key('owner:' .. job_owner), id)
redis.call('ZREM', key('ended'), id)
redis.call('ZREM', key('dead'), id)
redis.call('DEL', job_key(id))
redis.call('SET', key('tombstone:' .. id), job_owner, 'EX', tombstone_ttl)
return 'deleted'
