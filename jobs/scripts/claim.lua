#!lua flags=allow-oom
-- queued -> running: the best pending job for this worker. The attempt grows: it is the fencing token.
-- ARGV: worker, lease (us), newest schema that the worker reads
-- Returns the record (field, value, ...), or nil when nothing waits
local worker, lease, schema = unpack(ARGV)
local time = now()

for _, id in ipairs(redis.call('ZRANGE', key('pending'), 0, 99)) do
  local deadline, job_schema = get(id, 'deadline', 'schema')
  if tonumber(deadline) <= time then
    finish(id, 'expired')
  elseif tonumber(job_schema) <= tonumber(schema) then
    leave(id)
    redis.call('ZADD', key('running'), integer(time + lease), id)
    redis.call('HINCRBY', job_key(id), 'attempt', 1)
    redis.call('HSET', job_key(id), 'worker', worker, 'started_at', integer(time), 'step', 0)
    enter(id, 'running')
    changed(id)
    return redis.call('HGETALL', job_key(id))
  end
end
return nil
