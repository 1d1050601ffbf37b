#!lua
-- (nothing) -> queued. Refused by Redis itself when its memory is full: no allow-oom here.
-- ARGV: id, owner, input (JSON), priority shift (us), work, steps, queue limit, seconds until it expires, schema,
--       idempotency key or '', digest of the body, seconds that the idempotency key is kept
-- Returns {'created' | 'replayed' | 'mismatch', id}, or {'full', seconds in which the workers end a job ('' if unknown)}
-- Keys: job:{id}, pending, running, deadlines, work, status:{status}, owner:{owner}[:{status}],
--       idempotency:{owner}:{key}, workers, worker:{id}, rate, clock, events
local id, owner, input, shift, work, steps, limit, ttl, schema, idempotency, digest, idempotency_ttl = unpack(ARGV)

if redis.call('EXISTS', job_key(id)) == 1 then return {'created', id} end  -- sent again after a lost answer

local idempotency_key = key('idempotency:' .. owner .. ':' .. idempotency)
if idempotency ~= '' then
  local before = redis.call('GET', idempotency_key)
  if before then
    local before_digest, before_id = before:match('^(%S+) (%S+)$')
    return {before_digest == digest and 'replayed' or 'mismatch', before_id}
  end
end

local queued = redis.call('ZCARD', key('pending'))
if queued >= tonumber(limit) then
  local sample = redis.call('ZRANGE', key('pending'), 0, 99)
  local rate = measured_rate()
  return {'full', rate > 0 and tostring(work_of(sample) / #sample / rate) or ''}
end

-- Strictly growing, so that the order of acceptance and the listing's cursor have no ties.
local created = math.max(now(), (tonumber(redis.call('GET', key('clock'))) or 0) + 1)
redis.call('SET', key('clock'), integer(created))
if idempotency ~= '' then
  redis.call('SET', idempotency_key, digest .. ' ' .. id, 'EX', idempotency_ttl)
end
redis.call('HSET', job_key(id),
  'schema', schema, 'id', id, 'owner', owner, 'input', input, 'total', steps, 'created_at', integer(created),
  'score', integer(created + shift), 'deadline', integer(created + ttl * 1000000), 'attempt', 0, 'losses', 0,
  'status', 'queued')
redis.call('HSET', key('work'), id, work)
redis.call('ZADD', key('owner:' .. owner), integer(created), id)
queue(id)
return {'created', id}
