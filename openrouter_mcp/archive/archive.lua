-- The archive of answers and batches: ARGV[1] names what is to be done, the others say to what.
-- answers, sizes: when each answer was asked, and how many characters it has. answer:ID, pages:ID: one answer.
-- plans: since when each batch is wanted. plan:ID, rows:ID: one batch, and the facts of its answers by place.

local prefix = KEYS[1] .. 'archive:'
local answers, sizes, plans = prefix .. 'answers', prefix .. 'sizes', prefix .. 'plans'
local call = redis.call
local method = {}

local function keep(seconds, ...)
  for _, name in ipairs({...}) do call('EXPIRE', name, seconds) end
end

local function forget(id)
  call('DEL', prefix .. 'answer:' .. id, prefix .. 'pages:' .. id)
  call('ZREM', answers, id)
  call('HDEL', sizes, id)
end

-- Whether `name` is kept for the caller ARGV[2], of the account whose names begin at ARGV[first].
local function is_theirs(name, first)
  local owner, caller = unpack(call('HMGET', name, 'owner', 'caller'))
  if caller ~= ARGV[2] then return false end
  for place = first, #ARGV do
    if ARGV[place] == owner then return true end
  end
  return false
end

local function entry(id)
  return call('HMGET', prefix .. 'answer:' .. id, 'owner', 'parent', 'at', 'seen', 'process', 'system', 'prompt',
    'facts', 'batch', 'question')
end

local function plan(id)
  return {id, call('HGET', prefix .. 'plan:' .. id, 'state'), call('HGET', prefix .. 'plan:' .. id, 'plan'),
    call('HGETALL', prefix .. 'rows:' .. id)}
end

-- Those of the ids, newest first, that are theirs and fit.
local function those(index, since, kind, first, most, fits, shown)
  local found = {}
  for _, id in ipairs(call('ZREVRANGEBYSCORE', index, '+inf', since)) do
    if #found >= most then break end
    if fits(prefix .. kind .. id) and is_theirs(prefix .. kind .. id, first) then table.insert(found, shown(id)) end
  end
  return found
end

-- id, how long to keep it, seen, facts, size, how many pages there are, how many of them are not sent, how many fields
-- are; then these fields with their names, of which 'at' is the first, and the pages. -1: all of it must be sent.
function method.save(id, kept_s, seen, facts, size, count, unsent, fields)
  local answer, pages = prefix .. 'answer:' .. id, prefix .. 'pages:' .. id
  local written, last = call('LLEN', pages), 9 + 2 * tonumber(fields)
  local is_kept = call('EXISTS', answer) == 1
  if fields == '0' and not (is_kept and written >= tonumber(unsent)) then return -1 end
  if not is_kept then
    for place = 10, last, 2 do call('HSET', answer, ARGV[place], ARGV[place + 1]) end
    call('ZADD', answers, ARGV[11], id)
  end
  call('HSET', answer, 'seen', seen, 'facts', facts, 'size', size)
  call('HSET', sizes, id, size)
  for place = last + 1, #ARGV do
    local number = tonumber(unsent) + place - last
    if number > written then
      call('RPUSH', pages, ARGV[place])
    elseif number == written then -- it may have grown
      call('LSET', pages, -1, ARGV[place])
    end
  end
  if count == '0' then call('DEL', pages) else call('LTRIM', pages, 0, tonumber(count) - 1) end
  keep(kept_s, answer, pages, answers, sizes)
  return call('HGET', answer, 'stop') == '1' and 1 or 0
end

function method.count()
  return call('ZCARD', answers)
end

function method.find(_, id)
  return is_theirs(prefix .. 'answer:' .. id, 4) and entry(id)
end

function method.same(_, question, since)
  local function fits(name) return call('HGET', name, 'question') == question end
  return those(answers, since, 'answer:', 5, math.huge, fits, entry)
end

function method.newest(_, count)
  local function fits(name) return call('HGET', name, 'batch') == '' end
  return those(answers, '-inf', 'answer:', 4, tonumber(count), fits, entry)
end

function method.pages(id)
  return call('LLEN', prefix .. 'pages:' .. id)
end

function method.page(id, number)
  local pages, place = prefix .. 'pages:' .. id, tonumber(number)
  return place >= 1 and place <= call('LLEN', pages) and call('LINDEX', pages, place - 1)
end

function method.text(id)
  return call('LRANGE', prefix .. 'pages:' .. id, 0, -1)
end

method.forget = forget

function method.stop(id)
  if call('EXISTS', prefix .. 'answer:' .. id) == 1 then call('HSET', prefix .. 'answer:' .. id, 'stop', 1) end
end

-- The moment before which all is forgotten; the most answers, and the most characters.
function method.tidy(before, most, bytes)
  for _, id in ipairs(call('ZRANGEBYSCORE', answers, '-inf', '(' .. before)) do forget(id) end
  for _, id in ipairs(call('ZRANGEBYSCORE', plans, '-inf', '(' .. before)) do
    call('DEL', prefix .. 'plan:' .. id, prefix .. 'rows:' .. id)
    call('ZREM', plans, id)
  end
  local size = 0
  for _, one in ipairs(call('HVALS', sizes)) do size = size + (tonumber(one) or 0) end
  for left = call('ZCARD', answers), 1, -1 do
    if left <= tonumber(most) and size <= tonumber(bytes) then break end
    local oldest = call('ZRANGE', answers, 0, 0)[1]
    size = size - (tonumber(call('HGET', sizes, oldest) or '') or 0)
    forget(oldest)
  end
end

function method.save_plan(id, kept_s, owner, caller, at, said)
  local name = prefix .. 'plan:' .. id
  if call('EXISTS', name) == 1 then return end
  call('HSET', name, 'owner', owner, 'caller', caller, 'state', '', 'plan', said)
  call('ZADD', plans, at, id)
  keep(kept_s, name, plans)
end

-- id, how long to keep them, then places and facts in turn.
function method.note(id, kept_s)
  if call('EXISTS', prefix .. 'plan:' .. id) == 0 then return end
  for place = 4, #ARGV, 2 do call('HSET', prefix .. 'rows:' .. id, ARGV[place], ARGV[place + 1]) end
  keep(kept_s, prefix .. 'rows:' .. id)
end

function method.settle(id, state)
  local name = prefix .. 'plan:' .. id
  if call('HGET', name, 'state') == '' then call('HSET', name, 'state', state) end
end

function method.find_plan(_, id)
  return is_theirs(prefix .. 'plan:' .. id, 4) and plan(id)
end

function method.newest_plans(_, since)
  local function fits() return true end
  return those(plans, '(' .. since, 'plan:', 4, math.huge, fits, plan)
end

function method.left_open(_, since)
  local function fits(name) return call('HGET', name, 'state') == '' end
  local function shown(id) return id end
  return those(plans, '(' .. since, 'plan:', 4, math.huge, fits, shown)
end

function method.is_stopped(id)
  return call('HGET', prefix .. 'plan:' .. id, 'state') == 'stopped'
end

return method[ARGV[1]](unpack(ARGV, 2, 9))
