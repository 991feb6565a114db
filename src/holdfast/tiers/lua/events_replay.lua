#!lua flags=allow-oom
-- Also where memory has run out: this is what frees it.
-- KEYS[1]: the partition's readers, with when each is forgotten. ARGV: what is asked, as JSON: base and streams; letter; max; append: whether its event is
-- appended again; command and channel. Removes a dead letter. Returns 1; or 0 if there is none; or, and keeps it, -1 if there
-- is no room, -2 if its reader is gone.
local ask = cjson.decode(ARGV[1])
redis.call('INCR', ask.base .. ':calls')
local found = redis.call('XRANGE', ask.base .. ':dead', ask.letter, ask.letter)[1]
if not found then return 0 end
if ask.append then
  local letter = {}
  for at = 1, #found[2], 2 do letter[found[2][at]] = found[2][at + 1] end
  local time = redis.call('TIME')
  local ends = redis.call('ZSCORE', KEYS[1], letter.reader or '')
  if not ends or tonumber(ends) <= time[1] * 1000 + math.floor(time[2] / 1000) then return -2 end
  local stream = ask.base .. ':' .. ask.streams[tonumber(letter.rank) + 1]
  if redis.call('XLEN', stream) >= ask.max then return -1 end
  redis.call('XADD', stream, '*', 'body', letter.body, 'repeat', 1, 'only', letter.reader)
  redis.call(ask.command, ask.channel, '')
end
redis.call('XDEL', ask.base .. ':dead', ask.letter)
return 1
