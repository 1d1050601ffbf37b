#!lua
-- (nothing) -> queued. Refused by Redis itself when its memory is full: no allow-oom here.
-- ARGV: id, owner, input (JSON), priority shift (us), cost, steps, queue limit, seconds until it expires, what a worker
--       must be able to do (words) or '', idempotency key or '', digests of the body (words; the first is kept), seconds
--       that the idempotency key is kept, the owner's submits per minute or '', the owner's queued and running jobs at
--       once or '', 1 when it has a webhook or '', traceparent or '', what is told of it before it is drawn (JSON)
-- Returns {'created' | 'replayed' | 'mismatch', id}, {'full', seconds in which the workers end a job ('' if unknown)},
--       {'too_many', how many are queued or running} or {'too_fast', seconds until the next submit is taken};
--       behind it, where the owner has a rate, how many submits are left now and the seconds until all are again
-- Keys: job:{id}, pending, passed, running, deadlines, work, status:{status}, owner:{owner}[:{status}],
--       idempotency:{owner}:{key}, limit:{owner}, workers, worker:{id}, rate, clock, events
local id, owner, input, shift, cost, steps, limit, ttl, needs, idempotency, digests, idempotency_ttl, per_minute,
  in_flight, webhook, traceparent, warnings = unpack(ARGV)
local MINUTE = 60000000

-- The generic cell rate algorithm: `limit` is the time at which the owner, one submit each spacing, would be even again.
local spacing = per_minute ~= '' and MINUTE / per_minute or 0
local even = math.max(tonumber(redis.call('GET', key('limit:' .. owner))) or 0, now())

local function answer(outcome, value)
  if per_minute == '' then return {outcome, value} end
  local ahead = even - now()
  return {outcome, value, math.floor((MINUTE - ahead) / spacing + 0.000001), tostring(ahead / 1000000)}
end

if redis.call('EXISTS', job_key(id)) == 1 then return answer('created', id) end  -- sent again after a lost answer

local idempotency_key = key('idempotency:' .. owner .. ':' .. idempotency)
if idempotency ~= '' then
  local before = redis.call('GET', idempotency_key)
  if before then
    local before_digest, before_id = before:match('^(%S+) (%S+)$')
    local same = (' ' .. digests .. ' '):find(' ' .. before_digest .. ' ', 1, true)
    return answer(same and 'replayed' or 'mismatch', before_id)
  end
end

if in_flight ~= '' then
  local owned = key('owner:' .. owner)
  local active = redis.call('ZCARD', owned .. ':queued') + redis.call('ZCARD', owned .. ':running')
  if active >= tonumber(in_flight) then return answer('too_many', active) end
end
if even + spacing - now() > MINUTE + 1 then
  return answer('too_fast', tostring((even + spacing - now() - MINUTE) / 1000000))
end

local queued = redis.call('ZCARD', key('pending'))
if queued >= tonumber(limit) then
  local sample = redis.call('ZRANGE', key('pending'), 0, 99)
  local rate = measured_rate()
  return answer('full', rate > 0 and tostring(work_of(sample) / #sample / rate) or '')
end

-- Strictly growing, so that the order of acceptance and the listing's cursor have no ties.
local created = math.max(now(), (tonumber(redis.call('GET', key('clock'))) or 0) + 1)
redis.call('SET', key('clock'), integer(created))
if idempotency ~= '' then
  redis.call('SET', idempotency_key, digests:match('^%S+') .. ' ' .. id, 'EX', idempotency_ttl)
end
if per_minute ~= '' then
  even = even + spacing
  redis.call('SET', key('limit:' .. owner), integer(even), 'EX', 61)
end
-- For workers of releases that know no `needs`: they claim schemas up to 2. Those of schema 1 forget webhooks.
local schema = needs ~= '' and 3 or webhook ~= '' and 2 or 1
redis.call('HSET', job_key(id),
  'schema', schema, 'id', id, 'owner', owner, 'input', input, 'total', steps, 'created_at', integer(created),
  'score', integer(created + shift), 'deadline', integer(created + ttl * 1000000), 'attempt', 0, 'losses', 0,
  'warnings', warnings, 'status', 'queued')
if needs ~= '' then redis.call('HSET', job_key(id), 'needs', needs) end
if webhook ~= '' then redis.call('HSET', job_key(id), 'webhook', 1) end
if traceparent ~= '' then redis.call('HSET', job_key(id), 'traceparent', traceparent) end
redis.call('HSET', key('work'), id, cost)
redis.call('ZADD', key('owner:' .. owner), integer(created), id)
queue(id)
return answer('created', id)
