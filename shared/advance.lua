-- Write a job's status, unless a later conductor already has, or Redis has lost what this one wrote last: it must not
-- go on from what only it remembers.
-- KEYS: fence, status, events.   ARGV: fencing token, which write under this token it is, status, the event's data,
-- most events kept.
-- Returns 1 when written, 0 when the conductor must begin anew.
local token, number = tonumber(ARGV[1]), tonumber(ARGV[2])
local fence = redis.call('GET', KEYS[1]) or '0:0'
local last_token, last_number = fence:match('(%d+):(%d+)')
last_token, last_number = tonumber(last_token), tonumber(last_number)
local follows = last_token == token and last_number == number - 1 or last_token < token and number == 1
local again = last_token == token and last_number == number
if not follows and not again then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'type', 'status', 'data', ARGV[4])
return 1
