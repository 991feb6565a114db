#!lua flags=allow-cross-slot-keys,no-writes
-- ARGV[1]: key names with spaces between, all served by this node; no name holds one. Returns the node's clock in ms, then
-- each value or false. One argument, because each costs the client more than the key itself.
-- One GET per key: a command over several slots would make this server refuse every later script.
local time = redis.call('TIME')
local reply = {time[1] * 1000 + math.floor(time[2] / 1000)}
local count = 1
for name in string.gmatch(ARGV[1], '%S+') do
  count = count + 1
  local value = redis.pcall('GET', name)
  -- A key of another type is not ours to read; it must not fail the others.
  reply[count] = type(value) ~= 'table' and value
end
return reply
