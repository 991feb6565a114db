-- KEYS: the journal's state, its entries. ARGV: the first number, how many. Returns 1 if it is sealed, else 0; and entries.
-- Both at once: whoever reads what was sealed must not be answered by a node that was cut off before.
local seal = redis.call('HEXISTS', KEYS[1], 'seal')
return {seal, redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])}
