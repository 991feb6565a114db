#!lua flags=allow-oom
-- Also where memory has run out: this is what frees it.
-- KEYS: the journal's state, its entries. ARGV: for how many ms the state stays. Removes the entries. Returns the
-- node it ran on.
-- The state stays for a while: a server that stood still meanwhile would take an absent journal for one that was lost,
-- and append again what was decided.
redis.call('HINCRBY', KEYS[1], 'calls', 1)
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'seal', 'dropped')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local me = redis.pcall('CLUSTER', 'MYID') -- an error where there is no cluster
local node = type(me) == 'string' and me or ''
return {node}
