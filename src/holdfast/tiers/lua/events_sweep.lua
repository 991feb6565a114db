#!lua flags=allow-oom
-- Also where memory has run out: this is what frees it.
-- KEYS[1]: the partition's readers, with when each is forgotten. ARGV: what is asked, as JSON: base and streams.
-- Forgets readers that were idle too long, and removes what all others are done with. Returns how many entries went.
-- A reader without its group has lost its place, and still needs all that is there.
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('INCR', ask.base .. ':calls')

for _, reader in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  for _, stream in ipairs(ask.streams) do redis.pcall('XGROUP', 'DESTROY', ask.base .. ':' .. stream, reader) end
  redis.call('DEL', ask.base .. ':reader:' .. reader, ask.base .. ':members:' .. reader)
  redis.call('ZREM', KEYS[1], reader)
end

local function parts(entry)
  local first, second = string.match(entry, '^(%d+)-(%d+)$')
  return tonumber(first), tonumber(second)
end

-- The first entry that a group still needs: its oldest one handed out, else what comes after the last.
local function needed(stream, info)
  local group = {}
  for at = 1, #info, 2 do group[info[at]] = info[at + 1] end
  if group.pending > 0 then return parts(redis.call('XPENDING', stream, group.name)[2]) end
  local first, second = parts(group['last-delivered-id'])
  return first, second + 1
end

local removed, readers = 0, redis.call('ZCARD', KEYS[1])
for _, name in ipairs(ask.streams) do
  local stream = ask.base .. ':' .. name
  local groups = redis.call('EXISTS', stream) == 1 and redis.call('XINFO', 'GROUPS', stream)
  if groups and #groups >= readers then
    local low, low_second
    for _, info in ipairs(groups) do
      local first, second = needed(stream, info)
      if not low or first < low or (first == low and second < low_second) then low, low_second = first, second end
    end
    if low then
      removed = removed + redis.call('XTRIM', stream, 'MINID', string.format('%.0f-%.0f', low, low_second))
    else
      removed = removed + redis.call('XLEN', stream)
      redis.call('DEL', stream)
    end
  end
end
return removed
