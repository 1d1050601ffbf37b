#!lua flags=no-writes
-- What owners have in queue and memory, and have had, in one consistent look; those who have neither are left out.
-- ARGV: owners to tell of, besides all of whose jobs something is kept
-- Returns the seconds by which waits are counted (see WAITS), and for each owner {owner, queued jobs, running jobs, cost of the
--       queued ones, seconds that the oldest of them has waited, bytes kept, what it has had (field, value, ...)}
-- Keys: kept, owner:{owner}[:{status}], queued_work, usage:{owner}
local time = now()
local bytes = {}
for _, owner in ipairs(ARGV) do bytes[owner] = '0' end
local kept = redis.call('HGETALL', key('kept'))
for i = 1, #kept, 2 do bytes[kept[i]] = kept[i + 1] end

local rows = {}
for owner, size in pairs(bytes) do
  local index = key('owner:' .. owner)
  local queued, running = redis.call('ZCARD', index .. ':queued'), redis.call('ZCARD', index .. ':running')
  local usage = redis.call('HGETALL', key('usage:' .. owner))
  if size ~= '0' or queued + running > 0 or #usage > 0 then
    local oldest = redis.call('ZRANGE', index .. ':queued', 0, 0, 'WITHSCORES')[2]
    rows[#rows + 1] = {
      owner,
      queued,
      running,
      queued > 0 and redis.call('HGET', key('queued_work'), owner) or '0',
      tostring(oldest and (time - oldest) / 1000000 or 0),
      size,
      usage,
    }
  end
end
return {WAITS, rows}
