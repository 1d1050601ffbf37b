#!lua
-- (nothing) -> queued. Refused by Redis itself when its memory is full: no allow-oom here.
-- ARGV: id, owner, input (JSON), priority shift (us), cost, steps, queue limit, seconds until it expires, what a worker
--       must be able to do (words) or '', idempotency key or '', digests of the body (words; the first is kept), seconds
--       that the idempotency key is kept, bytes that the job will take, the owner's limits (JSON: `rate`, submits per
--       minute; `work` per minute; `in_flight`, queued and running jobs at once; without limit where they are not named.
--       `share` of the queue and of memory, `weight`), 1 when it has a webhook or '', traceparent or '', what is told of it
--       before it is drawn (JSON)
-- Returns {'created' | 'replayed', {id, what `describe` returns; nothing more where it is deleted}}, {'mismatch', {id}},
--       {'full' | 'over_share', seconds in which the workers end a job ('' if unknown)}, {'too_many' | 'over_memory', ''} or
--       {'too_fast' | 'too_much', seconds until it is taken}; behind it, where the owner has a rate, how many submits are left
--       now and the seconds until all are again
-- Keys: job:{id}, pending, turns:{owner}, owed, queued_work, passed, running, deadlines, work, status:{status},
--       owner:{owner}[:{status}], idempotency:{owner}:{key}, kept, limit:{owner}, limit:{owner}:work, place, pace, clocks,
--       workers, worker:{id}, rate, clock, events
local id, owner, input, shift, cost, steps, limit, ttl, needs, idempotency, digests, idempotency_ttl, bytes, limits, webhook,
  traceparent, warnings = unpack(ARGV)
limits = cjson.decode(limits)
local SECOND, MINUTE = 1000000, 60000000
local NEVER_TOO_MUCH = 1024 * 1024  -- bytes of an owner
local ANY_PACE = 1000000  -- work per second, while no worker was ever heard: about a megapixel step
local time = now()

-- The generic cell rate algorithm: `limit` is the time at which the owner, one submit each spacing, would be even again.
-- What takes more than a minute's worth is taken when the owner is even.
local function meter(name, spacing)
  local even = math.max(tonumber(redis.call('GET', name)) or 0, time)
  return even, even - time - (spacing > MINUTE and 0 or MINUTE - spacing)
end

local function advance(name, even, spacing)
  redis.call('SET', name, integer(even + spacing), 'PX', math.ceil((even + spacing - time) / 1000) + 1000)
end

local spacing = limits.rate and MINUTE / limits.rate
local even, wait
if spacing then even, wait = meter(key('limit:' .. owner), spacing) end

local function count()
  if not spacing then return end
  advance(key('limit:' .. owner), even, spacing)
  even = even + spacing
end

local function answer(outcome, value)
  if not spacing then return {outcome, value} end
  local ahead = even - time
  return {outcome, value, math.floor((MINUTE - ahead) / spacing + 0.000001), tostring(ahead / SECOND)}
end

local function seen(outcome, job)
  if redis.call('EXISTS', job_key(job)) == 0 then return answer(outcome, {job}) end
  return answer(outcome, {job, describe(job)})
end

local function seconds_a_job()
  local sample = redis.call('ZRANGE', key('pending'), 0, 99)
  local rate = measured_rate()
  return rate > 0 and #sample > 0 and tostring(work_of(sample) / #sample / rate) or ''
end

if redis.call('EXISTS', job_key(id)) == 1 then return seen('created', id) end  -- sent again after a lost answer

if spacing and wait > 1 then return answer('too_fast', tostring(wait / SECOND)) end
local idempotency_key = key('idempotency:' .. owner .. ':' .. idempotency)
if idempotency ~= '' then
  local before = redis.call('GET', idempotency_key)
  if before then
    local before_digest, before_id = before:match('^(%S+) (%S+)$')
    count()  -- it costs an answer, too
    local same = (' ' .. digests .. ' '):find(' ' .. before_digest .. ' ', 1, true)
    if not same then return answer('mismatch', {before_id}) end
    return seen('replayed', before_id)
  end
end

local queued, owned = redis.call('ZCARD', key('pending')), redis.call('ZCARD', key('owner:' .. owner .. ':queued'))
local active = owned + redis.call('ZCARD', key('owner:' .. owner .. ':running'))
if limits.in_flight and active >= limits.in_flight then return answer('too_many', '') end
local work_spacing = limits.work and MINUTE * cost / limits.work
local work_even, work_wait
if work_spacing then
  work_even, work_wait = meter(key('limit:' .. owner .. ':work'), work_spacing)
  if work_wait > 1 then return answer('too_much', tostring(work_wait / SECOND)) end
end

-- Dynamic thresholds (Choudhury and Hahne, 1998): an owner alone fills its share, and there is room left for the next one.
local function is_over_share(taken, free)
  return free > 0 and taken > 0 and limits.share < 1 and taken >= limits.share / (1 - limits.share) * free
end

-- Unknown where Redis has no `maxmemory`, or doesn't tell
local function free_memory()
  local info = redis.pcall('INFO', 'memory')
  local most = type(info) == 'string' and tonumber(info:match('\nmaxmemory:(%d+)')) or 0
  return most > 0 and most - tonumber(info:match('used_memory:(%d+)')) or math.huge
end

local free = limit - queued
if is_over_share(owned, free) then return answer('over_share', seconds_a_job()) end
local kept = tonumber(redis.call('HGET', key('kept'), owner)) or 0
if kept > NEVER_TOO_MUCH and is_over_share(kept, free_memory()) then return answer('over_memory', '') end
if free <= 0 then return answer('full', seconds_a_job()) end
if work_spacing then advance(key('limit:' .. owner .. ':work'), work_even, work_spacing) end
count()

-- Start-time fair queueing (Goyal, Vin and Cheng, 1996): an owner's turns begin where those of all have come to, or behind
-- its own ones, and each lasts as long as the job's work for the owner's weight. So an owner alone sees a plain queue, and
-- of several each gets its part, however much one has queued. Turns are compared with each other only: `pace` need not be
-- true, but it does not change while any wait. What is not drawn moves no clock.
local place = tonumber(redis.call('GET', key('place')))
if queued == 0 then
  place = math.max(place or 0, time)
  local rate = measured_rate()
  if rate > 0 then redis.call('SET', key('pace'), tostring(rate)) end
  redis.call('DEL', key('clocks'), key('owed'), key('queued_work'))  -- all are even again
elseif not place then  -- what waits came by a release without turns
  place = tonumber(redis.call('ZRANGE', key('pending'), 0, 0, 'WITHSCORES')[2])
end
redis.call('SET', key('place'), integer(place))
local clock = tonumber(redis.call('HGET', key('clocks'), owner)) or place
local owed = tonumber(redis.call('HGET', key('owed'), owner)) or 0
if owned == 0 then
  clock, owed = math.max(place, clock), 0
  redis.call('HSET', key('clocks'), owner, integer(clock))
  redis.call('HSET', key('owed'), owner, 0)
  redis.call('HSET', key('queued_work'), owner, 0)
end
local score = clock + owed + shift
local pace = tonumber(redis.call('GET', key('pace'))) or ANY_PACE
local turn = math.max(1, cost / pace / limits.weight * SECOND)

-- Strictly growing, so that the order of acceptance and the listing's cursor have no ties.
local created = math.max(time, (tonumber(redis.call('GET', key('clock'))) or 0) + 1)
redis.call('SET', key('clock'), integer(created))
if idempotency ~= '' then
  redis.call('SET', idempotency_key, digests:match('^%S+') .. ' ' .. id, 'EX', idempotency_ttl)
end
-- For workers of releases that know no `needs`: they claim schemas up to 2. Those of schema 1 forget webhooks.
local schema = needs ~= '' and 3 or webhook ~= '' and 2 or 1
redis.call('HSET', job_key(id),
  'schema', schema, 'id', id, 'owner', owner, 'input', input, 'total', steps, 'created_at', integer(created),
  'own_order', integer(created + shift), 'score', integer(score), 'turn', integer(turn),
  'deadline', integer(created + ttl * SECOND), 'attempt', 0, 'losses', 0, 'warnings', warnings, 'bytes', bytes, 'status', 'new')
keep(owner, bytes)
if needs ~= '' then redis.call('HSET', job_key(id), 'needs', needs) end
if idempotency ~= '' then redis.call('HSET', job_key(id), 'idempotency', idempotency) end
if webhook ~= '' then redis.call('HSET', job_key(id), 'webhook', 1) end
if traceparent ~= '' then redis.call('HSET', job_key(id), 'traceparent', traceparent) end
redis.call('HSET', key('work'), id, cost)
redis.call('ZADD', key('owner:' .. owner), integer(created), id)
queue(id)
return seen('created', id)
