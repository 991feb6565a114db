#!lua flags=allow-cross-slot-keys,allow-oom
-- KEYS[1]: the node's watermark, by which the call finds its node. ARGV: lifetime of a fence in ms; then of each entry that
-- is to go: its name, its version (8 bytes), the fence for its place. Another version, another incarnation and a fence stay.
-- Returns how many went. Offsets are those of holdfast.tiers.codec, plus one.
local gone = 0
for i = 2, #ARGV, 3 do
  local name, version, fence = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local held = redis.pcall('GETRANGE', name, 0, 39) -- an error, for a key of another type or node, is not ours to change
  if type(held) == 'string' and #held == 40 and string.sub(held, 1, 1) == 'H' and string.byte(held, 3) ~= 4
    and string.sub(held, 17, 32) == string.sub(fence, 17, 32) and string.sub(held, 33, 40) == version then
    redis.call('SET', name, fence, 'PX', ARGV[1])
    gone = gone + 1
  end
end
return gone
