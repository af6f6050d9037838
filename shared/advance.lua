-- Write a job's status, unless a later conductor already has.
-- KEYS: fence, status, events.   ARGV: fencing token, status, the event's data, most events kept.
-- Returns 1 when written, 0 when the token is of the past.
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or '0') then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'type', 'status', 'data', ARGV[3])
return 1
