-- Publish one trajectory exactly once: add the entry, mark it done and add to the sums, or do nothing at all.
-- KEYS: stream, done bitmap, counts hash.   ARGV: bit, payload, then pairs of count and increment.
-- Returns 1 when published, 0 when it already was.
if redis.call('SETBIT', KEYS[2], ARGV[1], 1) == 1 then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'trajectory', ARGV[2])
for i = 3, #ARGV, 2 do
  redis.call('HINCRBYFLOAT', KEYS[3], ARGV[i], ARGV[i + 1])
end
return 1
