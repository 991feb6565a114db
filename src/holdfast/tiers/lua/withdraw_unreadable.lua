#!lua flags=allow-cross-slot-keys,allow-oom
-- KEYS[1]: the node's watermark, by which the call finds its node. ARGV: lifetime of a fence in ms; then of each entry that
-- is to go: its name, its size and the SHA-1 of its first 64 KiB with a colon between, the fence for its place. Whatever is
-- not these bytes stays. Returns how many went.
local gone = 0
for i = 2, #ARGV, 3 do
  local name, likeness, fence = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local size = redis.pcall('STRLEN', name) -- an error, for a key of another type or node, is not ours to change
  if type(size) == 'number' and likeness == size .. ':' .. redis.sha1hex(redis.call('GETRANGE', name, 0, 65535)) then
    redis.call('SET', name, fence, 'PX', ARGV[1])
    gone = gone + 1
  end
end
return gone
