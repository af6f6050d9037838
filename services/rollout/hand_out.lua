-- Write the tickets of consecutive groups, if they are the next: else another conductor has written them, this call
-- is repeated, or Redis has lost tickets before them.
-- KEYS: tickets, counter of groups that have tickets.   ARGV: first group, then the problem of each.
-- Returns 1 when written, 0 when they are not the next.
local first = tonumber(ARGV[1])
if first ~= tonumber(redis.call('GET', KEYS[2]) or '0') then
  return 0
end
for i = 2, #ARGV do
  redis.call('XADD', KEYS[1], '*', 'group', first + i - 2, 'problem', ARGV[i])
end
redis.call('SET', KEYS[2], first + #ARGV - 1)
return 1
