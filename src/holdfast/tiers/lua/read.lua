#!lua flags=allow-cross-slot-keys,allow-oom
-- KEYS[1]: the node's watermark. ARGV: for how many ms a key is leased to who loads it, 0: nobody here means to; key names with
-- spaces between, no name holds one. Returns the node's clock in ms, the watermark or false, then for each key: its value;
-- false if it holds nothing or a fence, and the lease is the caller's or nobody's; for how many ms another has the lease; -1
-- if this node does not serve it. One argument for the names, because each costs the client more than the key itself.
-- One GET per key: a command over several slots would make this server refuse every later script.
-- Offsets are those of holdfast.tiers.codec, plus one.
local pcall, byte = redis.pcall, string.byte
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A key of another type is not ours to read; it must not fail the others.
local function is_of_another_type(reply)
  return string.find(reply.err, 'WRONGTYPE', 1, true) ~= nil
end

local mark = pcall('GET', KEYS[1])
if type(mark) == 'table' then
  if not is_of_another_type(mark) then return mark end -- it moved away: the caller's map of nodes is old
  mark = false
end

-- A node without a watermark takes no fill, so there is nothing to wait for.
local lease = mark and tonumber(ARGV[1]) or 0

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
  if type(held) == 'table' then return not is_of_another_type(held) and -1 end
  local left = 0
  if held then
    local high, low = struct.unpack('>I4I4', held, 9)
    left = high * 4294967296 + low - now
  end
  if lease == 0 then return left > 0 and left end
  if left > 0 and left <= lease then return left end -- one that lasts longer was taken before the clock went back
  return take_lease(name, held)
end

local reply, count = {now, mark}, 2
for name in string.gmatch(ARGV[2], '%S+') do
  count = count + 1
  local value = pcall('GET', name)
  if type(value) == 'string' and (byte(value, 3) ~= 4 or #value ~= 68) then
    reply[count] = value
  else
    reply[count] = absent(name, value)
  end
end
return reply
