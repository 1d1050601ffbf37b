#!lua flags=allow-oom
-- queued -> running: the best pending job that this worker can do. The attempt grows: it is the fencing token.
-- A job that was lost with its worker before may be what killed it: it is given only to a worker that holds nothing else, so
-- that it can't take its neighbours along again and again.
-- Jobs that the worker can't do are passed over, however many. How far is remembered, since to look at 10,000 takes 20 ms, and
-- 66 ms where their requests have to be read.
-- ARGV: worker, lease (us), newest schema that the worker reads, 1 when the worker holds nothing else, number of the claim: the
--       same number again gets the same job, so that one whose answer was lost on its way is not forgotten; what it can do
--       (words); the most pixels of a picture that its memory has room for in a job of 1, 2, … images; the same with
--       guidance; both with a step cache (numbers; '' where there is room for all)
-- Returns the record (field, value, ...), {} when nothing waits that it can do, or {'alone'} when the best job wants the worker
--       for itself; and the jobs that were found expired (see `attempt_of`)
-- Keys: job:{id}, pending, turns:{owner}, owed, queued_work, place, clocks, passed, running, deadlines, ended, undrawn,
--       outcomes, usage:{owner}, work, status:{status}, owner:{owner}[:{status}], worker:{id}, kept, webhooks,
--       webhook:{event}, events
local worker, lease, schema, alone, number, abilities, room = unpack(ARGV)
local PAGE = 100
local REMEMBERED = 10000  -- ms; not for ever: scripts of releases that know no `passed` may queue a job before that place
local time = now()
local worker_key = key('worker:' .. worker)

local last_number, last = unpack(redis.call('HMGET', worker_key, 'claim_number', 'claimed'))
if last_number == number and get(last, 'worker') == worker and get(last, 'status') == 'running' then
  return {redis.call('HGETALL', job_key(last)), {}}
end

local able = {}
for ability in abilities:gmatch('%S+') do able[ability] = true end

local function can_do(needs)
  for need in needs:gmatch('%S+') do
    if not able[need] then return false end
  end
  return true
end

local most_pixels = {}
for pixels in room:gmatch('%d+') do most_pixels[#most_pixels + 1] = tonumber(pixels) end

-- By the request itself, so that it holds for what other releases accepted, too
local function has_room(input)
  if #most_pixels == 0 then return true end
  local asked = cjson.decode(input)
  local images = #most_pixels / 4
  local kind = (asked.guidance_scale > 0 and 1 or 0) + ((asked.step_cache or 'off') ~= 'off' and 2 or 0)
  return asked.num_images <= images and asked.width * asked.height <= most_pixels[kind * images + asked.num_images]
end

local kind = schema .. ' ' .. abilities .. ' ' .. room  -- of workers that pass over the same jobs
local place = redis.call('ZSCORE', key('passed'), kind) or '-inf'
local first = redis.call('ZCOUNT', key('pending'), '-inf', '(' .. place)
local rank = first  -- of the job looked at; those before it are not for this worker
local expired = {}

-- Returns 'take', 'pass' or 'gone': it is in the queue no more
local function look(id)
  local needs = get(id, 'needs')
  if needs and not can_do(needs) then return 'pass' end
  if not known(id) then return 'gone' end
  local deadline, job_schema, input = get(id, 'deadline', 'schema', 'input')
  if tonumber(deadline) <= time then
    finish(id, 'expired')
    expired[#expired + 1] = attempt_of(id)
    return 'gone'
  end
  return tonumber(job_schema) <= tonumber(schema) and has_room(input) and 'take' or 'pass'
end

-- The turns have come to where its owner's have, and these move on by the job's. A high job is drawn before its owner's turn:
-- the turns of others have not come so far, and who comes now begins beside them.
local function charge(id)
  local owner, turn, score = get(id, 'owner', 'turn', 'score')
  if not turn then return end  -- accepted by a release without turns
  local place = tonumber(redis.call('GET', key('place'))) or 0
  local clock = tonumber(redis.call('HGET', key('clocks'), owner)) or place
  redis.call('SET', key('place'), integer(math.max(place, math.min(clock, score))))
  redis.call('HSET', key('clocks'), owner, integer(clock + turn))
end

local function find()
  repeat
    local page = redis.call('ZRANGE', key('pending'), rank, rank + PAGE - 1)
    for _, id in ipairs(page) do
      local verdict = look(id)
      if verdict == 'take' then return id end
      if verdict == 'pass' then rank = rank + 1 end
    end
  until #page == 0 or #expired >= PAGE
end

local function tell_wait(owner, waited)
  local bucket = 'longer'
  for _, seconds in ipairs(WAITS) do
    if waited <= seconds * 1000000 then
      bucket = seconds
      break
    end
  end
  tally(owner, 'wait:' .. bucket, 1, 'waited', integer(waited))
end

local id = find()
if rank > first then
  local last_passed = redis.call('ZRANGE', key('pending'), rank - 1, rank - 1, 'WITHSCORES')
  redis.call('ZADD', key('passed'), last_passed[2], kind)
  redis.call('PEXPIRE', key('passed'), REMEMBERED, 'NX')
end
if not id then return {{}, expired} end
if get(id, 'losses') ~= '0' and alone ~= '1' then return {{'alone'}, expired} end
leave(id)
charge(id)
redis.call('ZADD', key('running'), integer(time + lease), id)
redis.call('HINCRBY', job_key(id), 'attempt', 1)
redis.call('HSET', job_key(id), 'worker', worker, 'started_at', integer(time), 'step', 0)
redis.call('HSET', worker_key, 'claim_number', number, 'claimed', id)
redis.call('EXPIRE', worker_key, 86400)
local since = get(id, 'queued_at') or get(id, 'created_at')
redis.call('HINCRBY', job_key(id), 'waited', integer(time - since))
tell_wait(get(id, 'owner'), time - since)
enter(id, 'running')
changed(id)
return {redis.call('HGETALL', job_key(id)), expired}
