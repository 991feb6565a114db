-- KEYS[1]: the partition's readers, with when each is forgotten. ARGV: what is asked, as JSON; bodies ...
-- Asked: base, the start of the partition's names; max, entries of a stream at most; events, for each body its stream, whether
-- it is a repeat, and its only reader; command and channel, to hint by. Returns for each body 1, or 0 if its stream is full.
local ask = cjson.decode(ARGV[1])
-- Something is always written: after a script that wrote nothing a WAIT says what it likes.
redis.call('INCR', ask.base .. ':calls')
local taken, lengths = {}, {}
local wanted = redis.call('ZCARD', KEYS[1]) > 0
for at, event in ipairs(ask.events) do
  local stream = ask.base .. ':' .. event[1]
  lengths[stream] = lengths[stream] or redis.call('XLEN', stream)
  if not wanted then
    taken[at] = 1
  elseif lengths[stream] >= ask.max then
    taken[at] = 0
  else
    redis.call('XADD', stream, '*', 'body', ARGV[at + 1], 'repeat', event[2], 'only', event[3])
    lengths[stream] = lengths[stream] + 1
    taken[at] = 1
  end
end
if wanted then redis.call(ask.command, ask.channel, '') end
return taken
