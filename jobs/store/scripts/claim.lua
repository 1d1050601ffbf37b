#!lua flags=allow-oom
-- queued -> running: the best pending job for this worker. The attempt grows: it is the fencing token.
-- A job that was lost with its worker before may be what killed it: it is given only to a worker that holds nothing else, so
-- that it can't take its neighbours along again and again.
-- ARGV: worker, lease (us), newest schema that the worker reads, 1 when the worker holds nothing else, number of the claim: the
--       same number again gets the same job, so that one whose answer was lost on its way is not forgotten
-- Returns the record (field, value, ...), {} when nothing waits, or {'alone'} when the best job wants the worker for itself;
--       and the jobs that were found expired (see `attempt_of`)
-- Keys: job:{id}, pending, running, deadlines, ended, outcomes, work, status:{status}, owner:{owner}[:{status}],
--       worker:{id}, webhooks, webhook:{event}, events
local worker, lease, schema, alone, number = unpack(ARGV)
local time = now()
local worker_key = key('worker:' .. worker)

local last_number, last = unpack(redis.call('HMGET', worker_key, 'claim_number', 'claimed'))
if last_number == number and get(last, 'worker') == worker and get(last, 'status') == 'running' then
  return {redis.call('HGETALL', job_key(last)), {}}
end

local expired = {}
for _, id in ipairs(redis.call('ZRANGE', key('pending'), 0, 99)) do
  local deadline, job_schema, losses = get(id, 'deadline', 'schema', 'losses')
  if not known(id) then
    -- it has just left the queue
  elseif tonumber(deadline) <= time then
    finish(id, 'expired')
    expired[#expired + 1] = attempt_of(id)
  elseif tonumber(job_schema) <= tonumber(schema) then
    if losses ~= '0' and alone ~= '1' then return {{'alone'}, expired} end
    leave(id)
    redis.call('ZADD', key('running'), integer(time + lease), id)
    redis.call('HINCRBY', job_key(id), 'attempt', 1)
    redis.call('HSET', job_key(id), 'worker', worker, 'started_at', integer(time), 'step', 0)
    redis.call('HSET', worker_key, 'claim_number', number, 'claimed', id)
    redis.call('EXPIRE', worker_key, 86400)
    enter(id, 'running')
    changed(id)
    return {redis.call('HGETALL', job_key(id)), expired}
  end
end
return {{}, expired}
