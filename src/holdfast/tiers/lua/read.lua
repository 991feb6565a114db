#!lua flags=allow-cross-slot-keys,no-writes
-- ARGV: key names, all served by this node. Returns the node's clock in ms, then each value or false.
-- One GET per key: a command over several slots would make this server refuse every later script.
local time = redis.call('TIME')
local reply = {time[1] * 1000 + math.floor(time[2] / 1000)}
for i = 1, #ARGV do
  reply[i + 1] = redis.call('GET', ARGV[i])
end
return reply
