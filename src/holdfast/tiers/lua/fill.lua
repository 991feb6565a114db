#!lua flags=allow-cross-slot-keys
-- KEYS[1]: the node's watermark. ARGV: oldest age in ms that a read may have; for how many ms a key is leased to who loads it;
-- the misses that began the reads, 16 bytes each: the node's clock in ms and its generation then; name, entry, name, entry ...
-- An empty entry stores nothing and gives the lease back. Returns how many were stored.
-- Offsets are those of holdfast.tiers.codec and l2_watermarks, plus one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local age_max, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
local nothing = string.rep('\0', 8)

local mark = redis.call('GET', KEYS[1])
if not mark or #mark < 32 then return 0 end
local generation, incarnation = string.sub(mark, 9, 16), string.sub(mark, 17, 32)

-- Versions have 64 bits and Lua's numbers 53: compare the halves.
local function above(held, entry)
  local held_high, held_low = struct.unpack('>I4I4', held, 33)
  local high, low = struct.unpack('>I4I4', entry, 33)
  return held_high > high or (held_high == high and held_low > low)
end

local function is_ours(held)
  return type(held) == 'string' and #held == 40 and string.sub(held, 1, 1) == 'H'
end

local function store(name, entry, held, age)
  local ttl = struct.unpack('>I4', entry, 57)
  if age < 0 or age > age_max then return false end
  if string.sub(entry, 17, 32) ~= incarnation then return false end
  local same = is_ours(held) and string.sub(held, 17, 32) == incarnation
  if same and above(held, entry) then return false end
  return redis.pcall('SET', name, entry, 'PX', ttl - age).err == nil -- an error if the TTL is over, or the slot on its way
end

-- The lease of one's own miss, told by its end: it may have ended, and be another's now.
local function give_back(name, held, asked)
  if not is_ours(held) or string.byte(held, 3) ~= 4 then return end
  local high, low = struct.unpack('>I4I4', held, 9)
  if high * 4294967296 + low ~= asked + lease then return end
  if string.sub(held, 33, 40) == nothing then
    redis.pcall('DEL', name)
  else
    redis.pcall('SETRANGE', name, 8, nothing)
  end
end

local stored = 0
for i = 4, #ARGV, 2 do
  local name, entry, at = ARGV[i], ARGV[i + 1], (i - 4) * 8 + 1
  local high, low = struct.unpack('>I4I4', ARGV[3], at)
  local asked = high * 4294967296 + low
  local held = redis.pcall('GETRANGE', name, 0, 39) -- an error, for a key of another type, is not ours to keep
  if entry ~= '' and string.sub(ARGV[3], at + 8, at + 15) == generation and store(name, entry, held, now - asked) then
    stored = stored + 1
  else
    give_back(name, held, asked)
  end
end
return stored
