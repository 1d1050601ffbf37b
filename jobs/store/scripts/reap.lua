#!lua flags=allow-oom
-- running -> queued, failed (worker_lost) or canceled for jobs whose worker let the lease run out: see `lose`.
-- ARGV: lease (us), losses that fail a job, error (JSON) of such a job
-- Returns the time, and a pair for each job: what was lost (see `attempt_of`), and the status that the job has now
-- Keys: job:{id}, pending, turns:{owner}, clocks, owed, queued_work, passed, running, deadlines, ended, undrawn, outcomes,
--       usage:{owner}, dead, work, status:{status}, owner:{owner}[:{status}], workers, reaper:last, kept, webhooks,
--       webhook:{event}, events
local lease, max_losses, error = unpack(ARGV)
local time = now()
local last = tonumber(redis.call('GET', key('reaper:last')) or time)
redis.call('SET', key('reaper:last'), integer(time))

-- Nobody looked for half a lease, where somebody looks six times in one: Redis was away, and no worker could renew. Each
-- gets one more lease; as leases are renewed six times too, none had less than a third of one left.
if time - last > lease / 2 then
  for _, id in ipairs(redis.call('ZRANGE', key('running'), 0, -1)) do
    redis.call('ZADD', key('running'), integer(time + lease), id)
  end
  return {integer(time), {}}
end

local outcomes = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('running'), '-inf', integer(time), 'LIMIT', 0, 100)) do
  if known(id) then
    local lost = attempt_of(id)
    outcomes[#outcomes + 1] = {lost, lose(id, max_losses, error)}
  end
end

-- A worker that fell silent a while ago is not coming back: ids are new at every start.
redis.call('ZREMRANGEBYSCORE', key('workers'), '-inf', integer(time - 86400 * 1000000))
return {integer(time), outcomes}
