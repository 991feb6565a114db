#!lua flags=allow-cross-slot-keys
-- ARGV[1]: oldest age in ms that a read may have; then name, entry, name, entry ... Returns how many were stored.
-- Offsets are those of holdfast.tiers.codec, plus one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local age_max = tonumber(ARGV[1])

-- Versions have 64 bits and Lua's numbers 53: compare the halves.
local function above(held, entry)
  local held_high, held_low = struct.unpack('>I4I4', held, 33)
  local high, low = struct.unpack('>I4I4', entry, 33)
  return held_high > high or (held_high == high and held_low > low)
end

local stored = 0
for i = 2, #ARGV, 2 do
  local name, entry = ARGV[i], ARGV[i + 1]
  local read_high, read_low = struct.unpack('>I4I4', entry, 9)
  local age = now - (read_high * 4294967296 + read_low)
  local ttl = struct.unpack('>I4', entry, 57)
  if age >= 0 and age <= age_max then
    local held = redis.pcall('GETRANGE', name, 0, 39) -- an error, for a key of another type, has no length
    local same = type(held) == 'string' and #held == 40 and string.sub(held, 1, 1) == 'H'
      and string.sub(held, 17, 32) == string.sub(entry, 17, 32)
    if not (same and above(held, entry)) then
      redis.call('SET', name, entry, 'PX', ttl - age)
      stored = stored + 1
    end
  end
end
return stored
