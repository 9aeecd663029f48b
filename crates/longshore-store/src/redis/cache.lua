-- What is known of one fleet's cache beside its entries: when each ends, and what it weighs. All of it lies in one slot.
--
-- KEYS[1] names of entries by when they end (a sorted set), KEYS[2] their weights (a hash; under the empty name that of
-- all), KEYS[3] an entry. ARGV[1] what to do; then by case:
--   put    ARGV[2] its name, [3] time to live in ms, [4] weight, [5] the most that all may weigh, [6] the longest time to
--          live in ms, [7] the value. Returns names that have to make room: whoever asks deletes their entries.
--   drop   ARGV[2] its name. Returns 1 if it was there.
--   some   names of some entries, whatever they are.
--   leave  ARGV[2..] names whose entries were deleted.
-- {MOST} stands for the most names of one answer.

local ends, weights, entry, task = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

local function leave(name)
  local weight = redis.call('HMGET', weights, name)[1]
  if weight then
    redis.call('HDEL', weights, name)
    redis.call('HINCRBY', weights, '', -weight)
  end
  redis.call('ZREM', ends, name)
end

if task == 'put' then
  local name, ttl, weight, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  -- Entries that have ended are gone by themselves.
  for _, ended in ipairs(redis.call('ZRANGE', ends, '-inf', now, 'BYSCORE', 'LIMIT', 0, {MOST})) do
    leave(ended)
  end
  leave(name)
  redis.call('SET', entry, ARGV[7], 'PX', ttl)
  local gone = {}
  local total = redis.call('HINCRBY', weights, '', weight)
  redis.call('HSET', weights, name, weight)
  -- What was just put is not among those that may have to go.
  while total > most and #gone < {MOST} do
    local first = redis.call('ZRANGE', ends, 0, 0)[1]
    if not first then
      break
    end
    leave(first)
    gone[#gone + 1] = first
    total = tonumber(redis.call('HMGET', weights, '')[1])
  end
  redis.call('ZADD', ends, now + ttl, name)
  redis.call('PEXPIRE', ends, ARGV[6])
  redis.call('PEXPIRE', weights, ARGV[6])
  return gone
end

if task == 'drop' then
  leave(ARGV[2])
  return redis.call('DEL', entry)
end

if task == 'some' then
  return redis.call('ZRANGE', ends, 0, {MOST} - 1)
end

if task == 'leave' then
  for at = 2, #ARGV do
    leave(ARGV[at])
  end
  return 0
end

return redis.error_reply('ERR unknown task')
