#!lua flags=no-writes
-- A page of an owner's jobs, newest first, and where each stands in the queue, in one consistent look.
-- ARGV: owner, status or '', score of the index before which the page begins, at most how many jobs
-- Returns the jobs, each {record, jobs before it, work before it} with '' for jobs before it when it is not queued; the score
--       before which the next page begins, '' at the end; rate of the live workers, live workers
-- Keys: job:{id}, owner:{owner}[:{status}], pending, running, work, workers, worker:{id}, rate
local owner, status, newest, limit = unpack(ARGV)
local index = key('owner:' .. owner .. (status ~= '' and ':' .. status or ''))

local rows = redis.call('ZRANGE', index, newest, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, limit + 1, 'WITHSCORES')
local next_page = #rows > 2 * limit and rows[2 * limit] or ''
local jobs, ranks, highest = {}, {}, 0
for i = 1, math.min(#rows, 2 * limit), 2 do
  local record = redis.call('HGETALL', job_key(rows[i]))
  if #record > 0 then
    jobs[#jobs + 1] = record
    ranks[#jobs] = redis.call('ZRANK', key('pending'), rows[i])
    highest = math.max(highest, ranks[#jobs] or 0)
  end
end

local before = work_before(highest)
for i, record in ipairs(jobs) do
  jobs[i] = ranks[i] and {record, tostring(ranks[i]), tostring(before(ranks[i]))} or {record, ''}
end
local rate, workers = measured_rate()
return {jobs, next_page, tostring(rate), workers}
