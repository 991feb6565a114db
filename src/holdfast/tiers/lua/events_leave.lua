#!lua flags=allow-oom
-- Also where memory has run out: this is what frees it.
-- KEYS[1]: the partition's readers. ARGV: what is asked, as JSON: base and streams; reader, owner; forget; command and channel.
-- Gives the partition up if the asker owns it, and with forget ends the reader. Returns 1.
local ask = cjson.decode(ARGV[1])
local state, members = ask.base .. ':reader:' .. ask.reader, ask.base .. ':members:' .. ask.reader
redis.call('INCR', ask.base .. ':calls')
redis.call('ZREM', members, ask.owner)
if ask.forget then
  for _, stream in ipairs(ask.streams) do redis.pcall('XGROUP', 'DESTROY', ask.base .. ':' .. stream, ask.reader) end
  redis.call('DEL', state, members)
  redis.call('ZREM', KEYS[1], ask.reader)
elseif redis.call('HGET', state, 'owner') == ask.owner then
  redis.call('HSET', state, 'owner', '')
  redis.call(ask.command, ask.channel, '')
end
return 1
