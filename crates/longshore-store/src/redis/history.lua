-- One conversation's serving copy: a hash of its newest messages and what is known of them.
--
-- Fields: 'first' and 'last' number (first is last + 1 if not even the newest message is small enough), 'bytes' of all
-- their data, and each message under its number. Or only 'gone': forgotten a moment ago, and not to be filled by those
-- who read before that.
--
-- KEYS[1] the copy. ARGV[1] what to do, ARGV[2] time to live in ms; then by case:
--   read    ARGV[3] the number of the conversation's newest message
--   append  ARGV[3] the number of the first message given, ARGV[4..] messages
--   refill  ARGV[3] as append, the messages being all that the limits let through
--   forget  (nothing)
-- Limits and the length of a message's head stand in for the names in braces.

local copy, task, ttl = KEYS[1], ARGV[1], ARGV[2]
local from = tonumber(ARGV[3])

local function size(message)
  return #message - {HEAD}
end

local function put(number, at)
  local bytes = 0
  for n = at, #ARGV do
    redis.call('HSET', copy, number, ARGV[n])
    bytes = bytes + size(ARGV[n])
    number = number + 1
  end
  return bytes, number - 1
end

-- Drops the oldest messages until the rest is within both limits, as a reader of the database would stop there.
local function trim(first, last, bytes)
  while first <= last and (last - first + 1 > {MESSAGES} or bytes > {BYTES}) do
    bytes = bytes - (redis.call('HSTRLEN', copy, first) - {HEAD})
    redis.call('HDEL', copy, first)
    first = first + 1
  end
  redis.call('HSET', copy, 'first', first, 'last', last, 'bytes', bytes)
  redis.call('PEXPIRE', copy, ttl)
end

if task == 'forget' then
  redis.call('DEL', copy)
  redis.call('HSET', copy, 'gone', 1)
  redis.call('PEXPIRE', copy, ttl)
  return 0
end

local known = redis.call('HMGET', copy, 'first', 'last', 'bytes', 'gone')
local first, last, bytes = tonumber(known[1]), tonumber(known[2]), tonumber(known[3])

if task == 'read' then
  if last ~= from then
    return false
  end
  redis.call('PEXPIRE', copy, ttl)
  return redis.call('HGETALL', copy)
end

if known[4] then
  return 0
end

local newest = from + #ARGV - 4
if task == 'append' then
  -- What a number says never changes: a copy that has these messages already was refilled meanwhile.
  if last and newest <= last then
    return 1
  end
  if from ~= (last or 0) + 1 then
    redis.call('DEL', copy)
    return 0
  end
  local more
  more, last = put(from, 4)
  trim(first or 1, last, (bytes or 0) + more)
  return 1
end

if task == 'refill' then
  -- A slow reader does not undo what was appended since.
  if last and last >= newest then
    return 0
  end
  redis.call('DEL', copy)
  local all
  all, last = put(from, 4)
  trim(from, last, all)
  return 1
end

return redis.error_reply('ERR unknown task')
