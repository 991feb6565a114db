#!lua flags=allow-oom
-- Also where memory has run out: this is what frees it.
-- KEYS[1]: the partition's readers, with when each is forgotten. ARGV: what is asked, as JSON.
-- Asked: base and streams, the most urgent first; reader, owner, epoch, wanted, renewed, room, settled, dead, lease and idle in ms.
-- Returns the epoch, 0 if the asker does not own the partition; the members; 1 if the reader is new here, or its place was
-- lost; and events: rank, entry, body, times, repeat, only.
local ask = cjson.decode(ARGV[1])
local HISTORY_MAX, DEAD_MAX = 4096, 10000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state, members = ask.base .. ':reader:' .. ask.reader, ask.base .. ':members:' .. ask.reader
local group = ask.reader

redis.call('INCR', ask.base .. ':calls')
local held = redis.call('HMGET', state, 'owner', 'epoch', 'ends')
local created = 0
if not held[2] then
  created = 1
  redis.call('HSET', state, 'epoch', 0)
  for _, stream in ipairs(ask.streams) do redis.call('XGROUP', 'CREATE', ask.base .. ':' .. stream, group, '$', 'MKSTREAM') end
end
redis.call('ZADD', KEYS[1], now + ask.idle, ask.reader)
redis.call('ZREMRANGEBYSCORE', members, '-inf', now)
redis.call('ZADD', members, now + ask.lease, ask.owner)
redis.call('PEXPIRE', members, ask.lease)
local many = redis.call('ZCARD', members)

local epoch, mine = tonumber(held[2] or '0'), held[1] == ask.owner
local goes_on = mine and epoch == ask.epoch
local is_free = not held[1] or held[1] == '' or tonumber(held[3]) <= now
if not goes_on and not (ask.wanted and (mine or is_free)) then return {0, many, created, {}} end
if not goes_on then epoch = epoch + 1 end
redis.call('HSET', state, 'owner', ask.owner, 'epoch', epoch, 'ends', now + ask.lease)

local function settle()
  for _, dead in ipairs(ask.dead) do
    local stream = ask.base .. ':' .. ask.streams[dead.rank + 1]
    local found = redis.call('XRANGE', stream, dead.entry, dead.entry)[1]
    if redis.call('XACK', stream, group, dead.entry) == 1 and found then
      redis.call('XADD', ask.base .. ':dead', 'MAXLEN', '~', DEAD_MAX, '*', 'reader', ask.reader, 'reason', dead.reason,
        'attempts', dead.attempts, 'rank', dead.rank, 'body', found[2][2])
    end
  end
  for rank, entries in ipairs(ask.settled) do
    if #entries > 0 then redis.call('XACK', ask.base .. ':' .. ask.streams[rank], group, unpack(entries)) end
  end
end

-- A stream may have vanished with its groups: evicted, or deleted. What was appended since is for this reader.
local function is_place_lost()
  local is_lost = false
  for _, name in ipairs(ask.streams) do
    local stream = ask.base .. ':' .. name
    if redis.pcall('XPENDING', stream, group).err then
      redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
      is_lost = true
    end
  end
  return is_lost
end

local events = {}
local function hand_out(rank, rows, times)
  for _, row in ipairs(rows) do
    local fields = row[2]
    if fields and #fields > 0 then
      table.insert(events, {rank - 1, row[1], fields[2], times[row[1]] or 1, fields[4] or '', fields[6] or ''})
    else
      redis.call('XACK', ask.base .. ':' .. ask.streams[rank], group, row[1]) -- it was removed from the stream
    end
  end
end

local function read(rank, from, count)
  local stream = ask.base .. ':' .. ask.streams[rank]
  local found = redis.call('XREADGROUP', 'GROUP', group, 'owner', 'COUNT', count, 'STREAMS', stream, from)
  local times = {}
  if from == '0' then
    for _, row in ipairs(redis.call('XPENDING', stream, group, '-', '+', count)) do times[row[1]] = row[4] end
  end
  if found then hand_out(rank, found[1][2], times) end
end

if goes_on then settle() end
local is_anew = not goes_on or ask.renewed
if is_place_lost() then created, is_anew = 1, true end
for rank = 1, #ask.streams do
  if is_anew then read(rank, '0', HISTORY_MAX) end
  if ask.room[rank] > 0 then read(rank, '>', ask.room[rank]) end
end
return {epoch, many, created, events}
