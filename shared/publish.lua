-- Publish one trajectory exactly once: add the entry, mark it done and add to the sums, or do nothing at all.
-- KEYS: stream, done bitmap, counts hash, active part.
-- ARGV: bit, payload, the part that must be active (empty: any), then pairs of count and increment.
-- Returns 1 when published, 0 when it already was, -1 when another part is active.
if ARGV[3] ~= '' and redis.call('GET', KEYS[4]) ~= ARGV[3] then
  return -1
end
if redis.call('SETBIT', KEYS[2], ARGV[1], 1) == 1 then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'trajectory', ARGV[2])
for i = 4, #ARGV, 2 do
  redis.call('HINCRBYFLOAT', KEYS[3], ARGV[i], ARGV[i + 1])
end
return 1
