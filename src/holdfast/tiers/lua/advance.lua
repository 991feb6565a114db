#!lua flags=allow-cross-slot-keys,allow-oom
-- KEYS[1]: the node's watermark. ARGV: the watermark it must hold now, '' for none; the one it gets; lifetime of a fence in ms; names
-- with spaces between, all served by this node; their fences, 68 bytes each. Returns 1, or 0 if another watermark was there:
-- then nothing is changed. A fence never lowers what a key holds. Offsets are those of holdfast.tiers.codec, plus one.
local mark = redis.pcall('GET', KEYS[1])
if type(mark) == 'table' then
  if not string.find(mark.err, 'WRONGTYPE', 1, true) then return mark end
  mark = false
end
if (mark or '') ~= ARGV[1] then return 0 end

local function below(held, fence)
  local held_high, held_low = struct.unpack('>I4I4', held, 33)
  local high, low = struct.unpack('>I4I4', fence, 33)
  return held_high < high or (held_high == high and held_low < low)
end

local at = 1
for name in string.gmatch(ARGV[4], '[^ ]+') do
  local fence = string.sub(ARGV[5], at, at + 67)
  at = at + 68
  local held = redis.pcall('GETRANGE', name, 0, 39) -- an error, for a key of another type, is not ours to keep
  local same = type(held) == 'string' and #held == 40 and string.sub(held, 1, 1) == 'H'
    and string.sub(held, 17, 32) == string.sub(fence, 17, 32)
  if not same or below(held, fence) then
    redis.call('SET', name, fence, 'PX', ARGV[3]) -- and with what was there ends its lease
  elseif string.byte(held, 3) == 4 then
    -- A fence above this one (a delete's, say) must live as long as this one would have.
    -- A value needs no such care: its TTL is at least a fence's lifetime, so it outlives every read older than itself.
    redis.call('PEXPIRE', name, ARGV[3])
  end
end
if ARGV[2] ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
return 1
