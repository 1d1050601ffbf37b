-- Shared by every script. KEYS[1] is the prefix of all keys; times are microseconds of Redis' own clock. The "Keys:" line of
-- a script names all that it touches, through these functions too.
--
-- job:{id}                  hash    the record, the truth
-- pending                   zset    queued ids by claim order: the turns of all owners' jobs, see submit.lua
-- turns:{owner}             zset    queued ids by the owner's own order: accepted-at, shifted by priority
-- place, pace               string  where the turns have come to; work per second by which they are spaced
-- clocks, owed              hash    owner -> where its own turns have come to; what its queued jobs will move that on
-- queued_work               hash    owner -> cost of its queued jobs
-- passed                    zset    kinds of workers by the score in pending before which no job is for them: see claim.lua
-- running                   zset    running ids by the end of their lease
-- deadlines                 zset    queued ids by the time at which they expire
-- ended                     zset    ended ids by the time at which they ended; later while they are being removed
-- outcomes                  hash    succeeded, canceled, expired, failed:{code} -> jobs that ever ended so
-- undrawn                   zset    those of them that were canceled or expired, by the same time
-- dead                      zset    ids failed by their last loss (the dead letters), by time
-- work                      hash    id -> cost: pixels x steps x images, double with guidance, less with a step cache; while
--                                   queued or running
-- status:{status}           zset    ids by accepted-at: counts, and the oldest
-- owner:{owner}[:{status}]  zset    ids by accepted-at: the listing of one API key
-- idempotency:{owner}:{key} string  "<digest of the body> <id>"
-- limit:{owner}             string  time at which the owner has all its submits of a minute again
-- limit:{owner}:work        string  the same of its work of a minute
-- kept                      hash    owner -> bytes of Redis that its jobs take, with events for their webhooks
-- usage:{owner}             hash    succeeded, failed, canceled, expired -> jobs of its that ended so; work -> cost of the
--                                   succeeded ones; wait:{seconds} -> waits, see WAITS; waited -> all of them together
-- tombstone:{id}            string  of a deleted job its owner, and its idempotency key behind a space
-- tombstones:{owner}        zset    ids of the owner's deleted jobs, by time
-- workers                   zset    worker ids by the time until which they count as alive
-- worker:{id}               hash    card (JSON), room (see claim.lua), rate (work per second), number and id of its last claim
-- card, rate                string  those of the worker heard last
-- clock, reaper:last        string  time of the last submit, of the last reap
-- webhooks                  zset    undelivered events by the time of the next try, of the next look at one that queues up, or
--                                   by the end of a deliverer's lease
-- webhooks:due:{owner}      zset    events that queue up for a deliverer, by the time since which they are due
-- webhooks:owners           zset    owners of such events by the time of their last turn
-- webhooks:dead             zset    events that were given up, by time
-- webhook:{event}           hash    the job's record as it ended; tries, claimed (token of its deliverer), last_error
-- events                    channel "<id> <version> <status>" at every change
local prefix = KEYS[1]

local function key(name) return prefix .. name end
local function job_key(id) return prefix .. 'job:' .. id end
local function integer(n) return string.format('%.0f', n) end  -- tostring() would write 1.7e+15

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function get(id, ...)
  return unpack(redis.call('HMGET', job_key(id), ...))
end

-- Counts the change and tells whoever waits for the job.
local function changed(id)
  local version = redis.call('HINCRBY', job_key(id), 'version', 1)
  redis.call('PUBLISH', key('events'), id .. ' ' .. version .. ' ' .. get(id, 'status'))
end

-- What logs and traces tell of a job's attempt
local function attempt_of(id)
  return {id, get(id, 'owner', 'attempt', 'traceparent', 'worker', 'started_at')}
end

local function index(command, id, status, created, owner)
  local function apply(name)
    if command == 'ZADD' then redis.call('ZADD', name, created, id) else redis.call('ZREM', name, id) end
  end
  apply(key('status:' .. status))
  apply(key('owner:' .. owner .. ':' .. status))
end

local function enter(id, status)
  local created, owner = get(id, 'created_at', 'owner')
  index('ZADD', id, status, created, owner)
  redis.call('HSET', job_key(id), 'status', status)
end

-- Counts a job among its owner's queued ones, or with sign -1 no more; those that a release without turns accepted never.
local function owe(id, owner, turn, sign)
  local cost = turn and redis.call('HGET', key('work'), id)
  if not cost then return end
  redis.call('HINCRBY', key('owed'), owner, integer(sign * turn))
  redis.call('HINCRBY', key('queued_work'), owner, integer(sign * cost))
end

local function leave(id)
  local status, created, owner, turn = get(id, 'status', 'created_at', 'owner', 'turn')
  index('ZREM', id, status, created, owner)
  if status == 'queued' then
    redis.call('ZREM', key('turns:' .. owner), id)
    owe(id, owner, turn, -1)
    local score = redis.call('ZSCORE', key('pending'), id)  -- its turn when it left, for `charge` and a hand-back
    if score then redis.call('HSET', job_key(id), 'score', score) end
  end
  redis.call('ZREM', key('pending'), id)
  redis.call('ZREM', key('deadlines'), id)
  redis.call('ZREM', key('running'), id)
end

-- Whether a record is there. Where it is not (a Redis that evicts, a key that was deleted by hand) its id leaves what is
-- walked through, so that it holds up no other job.
local function known(id)
  if get(id, 'status') then return true end
  redis.call('ZREM', key('pending'), id)
  redis.call('ZREM', key('deadlines'), id)
  redis.call('ZREM', key('running'), id)
  redis.call('ZREM', key('ended'), id)
  redis.call('ZREM', key('undrawn'), id)
  redis.call('ZREM', key('status:queued'), id)
  redis.call('ZREM', key('status:running'), id)
  redis.call('HDEL', key('work'), id)
  return false
end

-- Into the claim order with a turn of its owner's. The owner's jobs take its turns in its own order, whichever job brought a
-- turn along: where the new one is not the last in both orders, those between move on by a turn.
local function take_turn(id, owner, score)
  local PAGE = 1000
  local turns = key('turns:' .. owner)
  local order = get(id, 'own_order') or score  -- a release without turns tells none
  redis.call('ZADD', turns, order, id)
  -- No two turns are alike, or ids would decide.
  while redis.call('ZCOUNT', key('pending'), score, score) > 0 do score = integer(score + 1) end
  local rank, placed, mover = redis.call('ZRANK', turns, id), {}, id

  local function place(turn)
    placed[#placed + 1], placed[#placed + 2] = turn, mover
  end

  -- Those behind it (with step -1: before it) whose turns are on the wrong side of the new one hand theirs on
  local function move(step)
    local at, page = rank, 8  -- most often none moves
    while true do
      local first = step > 0 and at + 1 or math.max(at - page, 0)
      local last = step > 0 and at + page or at - 1
      local ids = last >= first and redis.call('ZRANGE', turns, first, last) or {}
      if #ids == 0 then return end
      local scores = redis.call('ZMSCORE', key('pending'), unpack(ids))
      for i = step > 0 and 1 or #ids, step > 0 and #ids or 1, step do
        if scores[i] then  -- else a release without turns has claimed it
          if (scores[i] - score) * step >= 0 then return end
          place(scores[i])
          mover = ids[i]
        end
      end
      at, page = step > 0 and last or first, math.min(2 * page, PAGE)
    end
  end

  move(1)
  if mover == id then move(-1) end
  place(score)
  -- Thousands move at once where a key with a long queue of low jobs submits a normal one.
  for i = 1, #placed, 2 * PAGE do
    redis.call('ZADD', key('pending'), unpack(placed, i, math.min(i + 2 * PAGE - 1, #placed)))
  end
  local lowest = integer(math.min(score, placed[1]))
  for _, kind in ipairs(redis.call('ZRANGEBYSCORE', key('passed'), '(' .. lowest, '+inf')) do
    redis.call('ZADD', key('passed'), lowest, kind)
  end
end

-- queued: into the claim order, at its first place there
local function queue(id)
  local score, deadline, owner, turn, status = get(id, 'score', 'deadline', 'owner', 'turn', 'status')
  leave(id)
  take_turn(id, owner, score)
  owe(id, owner, turn, 1)
  if status == 'running' and redis.call('HEXISTS', key('clocks'), owner) == 1 then
    redis.call('HINCRBY', key('clocks'), owner, -(turn or 0))  -- it has not been drawn
  end
  redis.call('ZADD', key('deadlines'), deadline, id)
  redis.call('HSET', job_key(id), 'step', 0, 'queued_at', integer(now()))
  redis.call('HDEL', job_key(id), 'started_at')
  enter(id, 'queued')
  changed(id)
end

-- Seconds by which waits in the queue are counted: each under the first that it is not longer than, else as `longer`
local WAITS = {'0.25', '1', '5', '15', '60', '300', '900', '3600', '14400'}

-- Counts what an owner has had, given as names and numbers. Who has had nothing for a month begins anew.
local function tally(owner, ...)
  local MONTH = 30 * 86400
  local usage, counts = key('usage:' .. owner), {...}
  for i = 1, #counts, 2 do redis.call('HINCRBY', usage, counts[i], counts[i + 1]) end
  redis.call('EXPIRE', usage, MONTH)
end

-- Counts what is kept of an owner; jobs that a release without `kept` accepted tell no bytes.
local function keep(owner, bytes)
  if bytes and redis.call('HINCRBY', key('kept'), owner, integer(bytes)) <= 0 then redis.call('HDEL', key('kept'), owner) end
end

-- An event for the job's webhook: a copy of the record, so that it is told whatever becomes of the job.
local function tell_webhook(id)
  local webhook, version, owner, bytes = get(id, 'webhook', 'version', 'owner', 'bytes')
  if not webhook then return end
  local event = 'evt_' .. id .. '_' .. version
  redis.call('COPY', job_key(id), key('webhook:' .. event))
  keep(owner, bytes)
  redis.call('ZADD', key('webhooks'), integer(now()), event)
end

local function drop_event(event)
  local owner, bytes = unpack(redis.call('HMGET', key('webhook:' .. event), 'owner', 'bytes'))
  redis.call('DEL', key('webhook:' .. event))
  if owner then keep(owner, bytes and -bytes) end
end

-- succeeded, failed, canceled, expired: the fields are written and the job is never touched again but by delete
local function finish(id, status, ...)
  local time = integer(now())
  leave(id)
  redis.call('HSET', job_key(id), 'finished_at', time, ...)
  local owner, work = get(id, 'owner'), redis.call('HGET', key('work'), id) or 0
  tally(owner, status, 1, 'work', status == 'succeeded' and work or 0)
  redis.call('HDEL', key('work'), id)
  redis.call('ZADD', key('ended'), time, id)
  if status == 'canceled' or status == 'expired' then redis.call('ZADD', key('undrawn'), time, id) end
  local outcome = status == 'failed' and 'failed:' .. cjson.decode(get(id, 'error')).code or status
  redis.call('HINCRBY', key('outcomes'), outcome, 1)
  enter(id, status)
  changed(id)
  tell_webhook(id)
end

-- running -> queued for a job whose worker was lost while it held it; the last of `max_losses` fails it with the error, and
-- it is a dead letter, so that a job which kills its workers can't kill them all; canceled where that was asked for.
-- Returns the status that it has now
local function lose(id, max_losses, error)
  if get(id, 'cancel_requested') then
    finish(id, 'canceled')
    return 'canceled'
  end
  if redis.call('HINCRBY', job_key(id), 'losses', 1) >= tonumber(max_losses) then
    redis.call('ZADD', key('dead'), integer(now()), id)
    finish(id, 'failed', 'error', error)
    return 'failed'
  end
  queue(id)
  return 'queued'
end

-- Returns the work per second of the workers alive, and how many these are; of the one heard last when there are none
local function measured_rate()
  local rate = 0
  local workers = redis.call('ZRANGEBYSCORE', key('workers'), integer(now()), '+inf')
  for _, worker in ipairs(workers) do
    rate = rate + (tonumber(redis.call('HGET', key('worker:' .. worker), 'rate')) or 0)
  end
  if #workers == 0 then rate = tonumber(redis.call('GET', key('rate'))) or 0 end
  return rate, #workers
end

-- Returns the cost of these jobs together
local function work_of(ids)
  local sum = 0
  if #ids > 0 then
    for _, work in ipairs(redis.call('HMGET', key('work'), unpack(ids))) do sum = sum + (tonumber(work) or 0) end
  end
  return sum
end

-- Returns the work that stands before the job of a rank in the queue, for any up to `highest`: what is left of the jobs that
-- run, and all of those before it. Of many only the first are added up; the others count as much on average.
local function work_before(highest)
  local EXACT = 1000
  local sums = {[0] = 0}
  for _, id in ipairs(redis.call('ZRANGE', key('running'), 0, EXACT - 1)) do
    local step, total = get(id, 'step', 'total')
    local left = total and 1 - (tonumber(step) or 0) / tonumber(total) or 0
    sums[0] = sums[0] + left * (tonumber(redis.call('HGET', key('work'), id)) or 0)
  end
  local ahead = highest > 0 and redis.call('ZRANGE', key('pending'), 0, math.min(highest, EXACT) - 1) or {}
  local works = #ahead > 0 and redis.call('HMGET', key('work'), unpack(ahead)) or {}
  for i, work in ipairs(works) do sums[i] = sums[i - 1] + (tonumber(work) or 0) end
  return function(rank)
    if rank <= EXACT then return sums[rank] end
    return sums[0] + (sums[EXACT] - sums[0]) * rank / EXACT
  end
end

-- A job as its owner sees it: its record, then '' unless it is queued, else jobs before it, work before it, rate of the
-- live workers, live workers.
local function describe(id)
  local record = redis.call('HGETALL', job_key(id))
  if get(id, 'status') ~= 'queued' then return record, '' end
  local before = redis.call('ZRANK', key('pending'), id)
  local rate, workers = measured_rate()
  return record, tostring(before), tostring(work_before(before)(before)), tostring(rate), workers
end

-- Whether this worker's attempt is the job's latest: the fence that keeps a late worker out.
local function is_latest(id, worker, attempt)
  local current_worker, current_attempt = get(id, 'worker', 'attempt')
  return current_worker == worker and current_attempt == attempt
end

-- Ends the job that a worker holds. A result that was held through an outage counts too, as long as nobody else has claimed
-- the job since. Once its client wants it stopped, a job only ends as canceled.
-- Returns the status in which the job ended, the same again when sent again after a lost answer, or 'refused'
local function settle(id, worker, attempt, outcome, stages, ...)
  local status, cancel = get(id, 'status', 'cancel_requested')
  if not is_latest(id, worker, attempt) then return 'refused' end
  if status == outcome or status == 'canceled' then return status end
  if status ~= 'running' and status ~= 'queued' then return 'refused' end
  if cancel then
    finish(id, 'canceled', 'stages', stages)
    return 'canceled'
  end
  finish(id, outcome, 'stages', stages, ...)
  return outcome
end
