#!lua flags=allow-oom
-- Also where memory has run out: what is sealed is decided, and then freed.
-- KEYS: the journal's state. Lets nothing be appended any more. Returns the node it ran on, and the
-- highest number that the journal ever had.
-- Something is always written: after a script that wrote nothing a WAIT says what it likes.
redis.call('HINCRBY', KEYS[1], 'calls', 1)
redis.call('HSETNX', KEYS[1], 'seal', 'sealed')
local me = redis.pcall('CLUSTER', 'MYID') -- an error where there is no cluster
local node = type(me) == 'string' and me or ''
return {node, redis.call('HGET', KEYS[1], 'last') or '0'}
