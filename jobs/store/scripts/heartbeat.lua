#!lua flags=allow-oom
-- running -> running: renews a worker's leases and its own presence.
-- ARGV: worker, lease (us), card (JSON), which pictures its memory has room for (see `claim`), rate (work per second, '' when
--       not measured yet), trouble (what keeps it from its work, '' for nothing), then id, attempt of each job held
-- Returns for each job 'ok', 'cancel' (its client wants it stopped) or 'lost' (another attempt has it, or it ended)
-- Keys: job:{id}, running, workers, worker:{id}, card, rate
local worker, lease, card, room, rate, trouble = unpack(ARGV)
local until_ = integer(now() + lease)

redis.call('ZADD', key('workers'), until_, worker)
redis.call('HSET', key('worker:' .. worker), 'card', card, 'room', room, 'rate', rate, 'trouble', trouble)
redis.call('EXPIRE', key('worker:' .. worker), 86400)
redis.call('SET', key('card'), card)
if rate ~= '' then redis.call('SET', key('rate'), rate) end

local answers = {}
for i = 7, #ARGV, 2 do
  local id, attempt = ARGV[i], ARGV[i + 1]
  local status, cancel = get(id, 'status', 'cancel_requested')
  local answer = 'lost'
  if is_latest(id, worker, attempt) then
    if status == 'running' then
      redis.call('ZADD', key('running'), until_, id)
      answer = cancel and 'cancel' or 'ok'
    elseif status == 'queued' then
      answer = 'ok'  -- its lease ran out, but nobody has taken it: the result is still welcome
    end
  end
  answers[#answers + 1] = answer
end
return answers
