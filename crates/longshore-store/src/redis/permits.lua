-- The limiter that gateways share: all of it in one hash, so that it is lost as a whole or not at all.
--
-- Fields: 'epoch' names this state's life, 'run' the server process that it was kept by, 'now' the newest second seen,
-- 'open' the second before which nothing is admitted, 'whole' the newest second at which no gateway was missing, 'seats'
-- the gateways (JSON). For each line (one limit of one provider): 'L|h' its newest second, 'L|R' and 'L|T' requests and
-- tokens that count, 'L|b' the second until which the provider wants no call, and 'L|r0'..'L|t59' the slots of one second.
--
-- ARGV: 1 what to do, 2 seat, 3 how many gateways there are, 4 when it was sent (ms, this clock as the sender knows it),
-- 5 the epoch that the sender knows, 6 the time in tests, 7.. by case:
--   join      nonce, 1 if the seat knows all it used in a window, then line, requests, tokens of that window; any times
--   ask       line, limit of requests, limit of tokens (-1: none), tokens
--   settle    line, second, tokens reserved, tokens used
--   withdraw  line, second, tokens reserved
--   block     line, seconds
--   beat
-- Answers: word, this clock in ms, epoch, number.

local WINDOW, SEAT, STALE_MS = {WINDOW}, {SEAT}, {STALE} * 1000

local state, task, id = KEYS[1], ARGV[1], ARGV[2]
local gateways, sent, epoch = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local time = redis.call('TIME')
local ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
--{CLOCK}

-- What lay in a buffer while its sender gave it up must neither count it as present nor reserve.
if ms - sent > STALE_MS then
  return {'stale', ms, '', 0}
end

local known = redis.call('HMGET', state, 'epoch', 'run', 'now', 'open', 'whole', 'seats')
local current, run, before = known[1], known[2], tonumber(known[3])
local open, whole = tonumber(known[4]), tonumber(known[5])
local now = math.max(math.floor(ms / 1000), before or 0)

-- Once a second: has another server taken over, with less than the last one knew?
local server = run
if not current or math.floor(ms / 1000) ~= before then
  server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '?'
end

local seats
if not current or server ~= run then
  now = math.floor(ms / 1000)
  current, open, whole, seats = server .. ':' .. ms .. ':' .. id, now + WINDOW, now, {}
  redis.call('DEL', state)
  redis.call('HSET', state, 'epoch', current, 'run', server, 'now', now, 'open', open, 'whole', whole, 'seats', '{}')
else
  seats = cjson.decode(known[6])
  if now ~= before then
    redis.call('HSET', state, 'now', now)
  end
end

local function answer(word, number)
  return {word, ms, current, number or 0}
end

local function save_seats()
  redis.call('HSET', state, 'seats', cjson.encode(seats))
end

-- A line's sums, with everything that has left the window taken out.
local function load(name)
  local v = redis.call('HMGET', state, name .. '|h', name .. '|R', name .. '|T', name .. '|b')
  local line = {name = name, R = tonumber(v[2]) or 0, T = tonumber(v[3]) or 0, b = tonumber(v[4]) or 0}
  local h = tonumber(v[1]) or now
  local steps = math.min(now - h, WINDOW)
  if steps > 0 then
    local fields = {}
    for s = now - steps + 1, now do
      fields[#fields + 1] = name .. '|r' .. s % WINDOW
      fields[#fields + 1] = name .. '|t' .. s % WINDOW
    end
    local old = redis.call('HMGET', state, unpack(fields))
    for n = 1, #old, 2 do
      line.R = line.R - (tonumber(old[n]) or 0)
      line.T = line.T - (tonumber(old[n + 1]) or 0)
    end
    redis.call('HDEL', state, unpack(fields))
  end
  return line
end

local function save(line)
  redis.call('HSET', state, line.name .. '|h', now, line.name .. '|R', line.R, line.name .. '|T', line.T)
end

local function add(line, second, requests, tokens)
  line.R, line.T = line.R + requests, line.T + tokens
  redis.call('HINCRBY', state, line.name .. '|r' .. second % WINDOW, requests)
  redis.call('HINCRBY', state, line.name .. '|t' .. second % WINDOW, tokens)
  save(line)
end

local seat = seats[id]

if task == 'join' then
  local vouches = ARGV[8] == '1'
  if not seat or seat.j ~= ARGV[7] then
    local from = now
    -- One that was missing long enough may have used its own part, and this may be its successor.
    if not seat and not vouches and now - whole > WINDOW then
      from = now + WINDOW
    end
    seats[id] = {s = now, f = from, j = ARGV[7], v = vouches or (seat and seat.v) or false}
    for n = 9, #ARGV, 3 do
      add(load(ARGV[n]), now, tonumber(ARGV[n + 1]), tonumber(ARGV[n + 2]))
    end
  end
  local vouched = 0
  for other, its in pairs(seats) do
    if its.v then
      vouched = vouched + 1
    end
    if now - its.s > 600 then
      seats[other] = nil
    end
  end
  -- Everyone has told what was used: nothing is unknown any more.
  if open > now and vouched >= gateways then
    open = now
    redis.call('HSET', state, 'open', now)
  end
  save_seats()
  return answer('ok')
end

if not seat or epoch ~= current then
  return answer('join')
end
if seat.s ~= now then
  seat.s = now
  save_seats()
end

local present = 0
for _, its in pairs(seats) do
  if now - its.s <= SEAT and now >= its.f then
    present = present + 1
  end
end
present = math.min(present, gateways)
if present == gateways and whole ~= now then
  redis.call('HSET', state, 'whole', now)
end

if task == 'beat' then
  return answer('ok', present)
end

local line = load(ARGV[7])

if task == 'block' then
  redis.call('HSET', state, line.name .. '|b', math.max(line.b, now + tonumber(ARGV[8])))
  save(line)
  return answer('ok')
end

if task == 'settle' or task == 'withdraw' then
  local second = tonumber(ARGV[8])
  if now - second < WINDOW then
    local requests = task == 'withdraw' and -1 or 0
    add(line, second, requests, (tonumber(ARGV[10]) or 0) - tonumber(ARGV[9]))
  else
    save(line)
  end
  return answer('ok')
end

if task ~= 'ask' then
  return redis.error_reply('ERR unknown task')
end

local need = tonumber(ARGV[10])

local function cap(limit)
  return limit < 0 and math.huge or math.floor(limit * present / gateways)
end

local requests, tokens = cap(tonumber(ARGV[8])), cap(tonumber(ARGV[9]))

local function fits(R, T)
  return R + 1 <= requests and T + need <= tokens
end

local wait = math.max(open - now, line.b - now, 0)
if not fits(line.R, line.T) then
  if not fits(0, 0) then
    -- Only more gateways make room, and they may come at any time.
    wait = math.max(wait, SEAT)
  else
    local fields = {}
    for age = WINDOW - 1, 0, -1 do
      fields[#fields + 1] = line.name .. '|r' .. (now - age) % WINDOW
      fields[#fields + 1] = line.name .. '|t' .. (now - age) % WINDOW
    end
    local slots, R, T, left = redis.call('HMGET', state, unpack(fields)), line.R, line.T, 0
    while not fits(R, T) and left < WINDOW do
      R = R - (tonumber(slots[2 * left + 1]) or 0)
      T = T - (tonumber(slots[2 * left + 2]) or 0)
      left = left + 1
    end
    wait = math.max(wait, left)
  end
end
if wait > 0 then
  save(line)
  return answer('wait', wait)
end
add(line, now, 1, need)
return answer('yes', now)
