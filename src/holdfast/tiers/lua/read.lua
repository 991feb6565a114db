#!lua flags=allow-cross-slot-keys,allow-oom
-- KEYS[1]: the node's watermark. ARGV[1], with spaces between: for how many ms a key is leased to who loads it, 0: nobody
-- here means to; key names, none of which holds a space. Returns the node's clock in ms, the watermark or false, then for
-- each key: its value; false if it holds nothing or a fence, and the lease is the caller's or nobody's; for how many ms
-- another has the lease; -1 if this node does not serve it.
-- One argument, because each costs the client more than the key itself. One GET per key: a command over several slots
-- would make this server refuse every later script. What only misses need is made for misses only.
-- Offsets are those of holdfast.tiers.codec, plus one.
local pcall, byte, type = redis.pcall, string.byte, type
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local mark = pcall('GET', KEYS[1])
if type(mark) == 'table' then
  if not string.find(mark.err, 'WRONGTYPE', 1, true) then return mark end -- the caller's map of nodes is old
  mark = false
end

local words = string.gmatch(ARGV[1], '[^ ]+')
local lease = tonumber(words())
local reply, count, missing = {now, mark}, 2, nil
for name in words do
  count = count + 1
  local value = pcall('GET', name)
  reply[count] = value
  if type(value) ~= 'string' or (byte(value, 3) == 4 and #value == 68) then
    missing = missing or {}
    missing[count] = name
  end
end
if not missing then return reply end

-- A node without a watermark takes no fill, so there is nothing to wait for.
if not mark then lease = 0 end

-- The lease of a key that holds nothing is a fence of version 0. Should a lease not be stored, the key is loaded twice.
local function take_lease(name, held)
  local deadline = struct.pack('>I4I4', math.floor((now + lease) / 4294967296), (now + lease) % 4294967296)
  if held then
    pcall('SETRANGE', name, 8, deadline)
  else
    pcall('SET', name, 'H\1\4\0\0\0\0\0' .. deadline .. string.rep('\0', 52), 'PX', lease)
  end
  return false
end

local function absent(name, held)
  -- A key of another type is not ours to read; it must not fail the others.
  if type(held) == 'table' then return not string.find(held.err, 'WRONGTYPE', 1, true) and -1 end
  local left = 0
  if held then
    local high, low = struct.unpack('>I4I4', held, 9)
    left = high * 4294967296 + low - now
  end
  if lease == 0 then return left > 0 and left end
  if left > 0 and left <= lease then return left end -- one that lasts longer was taken before the clock went back
  return take_lease(name, held)
end

for position, name in pairs(missing) do
  reply[position] = absent(name, reply[position])
end
return reply
