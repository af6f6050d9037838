-- Delete a played ticket, if every trajectory of its group is published: Redis may have lost some that it acknowledged.
-- KEYS: tickets, done bitmap.   ARGV: consumer group, ticket, the group's first bit, its trajectories.
-- Returns 1 when deleted, 0 when some are missing (or it has gone before).
local first = tonumber(ARGV[3])
for bit = first, first + tonumber(ARGV[4]) - 1 do
  if redis.call('GETBIT', KEYS[2], bit) == 0 then
    return 0
  end
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
