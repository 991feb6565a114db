-- KEYS: the journal's state, its entries. ARGV: expected, keep_from; for each entry its number and its bytes.
-- Returns the node it ran on; what came of it; and the highest number that the journal ever had: 'appended', 'behind' or
-- 'sealed'; or 'hole' and the number that is missing.
-- Numbers are compared as doubles, which is exact below 2^53, and written as they came: Lua would write large ones with an
-- exponent.
-- Only one life of one server appends, and gives all that it gave before and nobody decided. So what lies above `expected`
-- was left by an attempt of unknown outcome, and what a failover took is a tail. A number below the highest that is
-- missing all the same is told: to pass it for appended would lose it. It is not mended either, for this may be an
-- attempt that comes late, and what came after it was acknowledged.
local me = redis.pcall('CLUSTER', 'MYID') -- an error where there is no cluster
local node = type(me) == 'string' and me or ''
local held = redis.call('HMGET', KEYS[1], 'last', 'kept', 'seal')
local last, kept = held[1] or '0', held[2] or '0'
local lost = not held[1] or redis.call('EXISTS', KEYS[2]) == 0 -- or never made, or removed by somebody
if lost and not held[3] then last, kept = '0', '0' end
-- Whoever is behind a journal that does not exist leaves nothing there.
if lost and not held[3] and ARGV[1] ~= '0' then return {node, 'behind', last} end
-- Something is always written: after a script that wrote nothing a WAIT says what it likes.
redis.call('HINCRBY', KEYS[1], 'calls', 1)
if held[3] then return {node, 'sealed', last} end
if tonumber(last) < tonumber(ARGV[1]) then return {node, 'behind', last} end
if lost then redis.call('DEL', KEYS[2]) end

for at = 3, #ARGV, 2 do
  local seq = ARGV[at]
  local id = seq .. '-0'
  if tonumber(seq) > tonumber(last) then
    redis.call('XADD', KEYS[2], id, 'e', ARGV[at + 1])
    last = seq
  elseif tonumber(seq) >= tonumber(kept) and #redis.call('XRANGE', KEYS[2], id, id) == 0 then
    return {node, 'hole', seq} -- numbers rise, so nothing was appended yet
  end
end
if tonumber(ARGV[2]) > tonumber(kept) then
  redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2] .. '-0')
  kept = ARGV[2]
end
redis.call('HSET', KEYS[1], 'last', last, 'kept', kept)
return {node, 'appended', last}
