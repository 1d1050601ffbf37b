#!lua flags=no-writes
-- What is served, in one look: the card heard last, and which pictures the memory of the workers alive has room for.
-- Returns {card (JSON, '' if there never was one), {room, each once}}: {''} where one worker alive has room for all, {} where
--       none is alive
-- Keys: card, workers, worker:{id}
local card = redis.call('GET', key('card')) or ''
local rooms, known = {}, {}
for _, worker in ipairs(redis.call('ZRANGE', key('workers'), integer(now()), '+inf', 'BYSCORE')) do
  local room = redis.call('HGET', key('worker:' .. worker), 'room') or ''  -- earlier releases tell none
  if room == '' then return {card, {''}} end
  if not known[room] then rooms[#rooms + 1] = room end
  known[room] = true
end
return {card, rooms}
