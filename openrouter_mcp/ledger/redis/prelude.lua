-- What every method needs. KEYS[1] begins all our names. ARGV: the method, whose arguments are a JSON object; the moment
-- (epoch seconds; empty: this server's clock); the mark of the book as the caller knows it (empty: not yet); another for
-- a new book; the ids of requests, and of charges, that nobody may have been told of; how often the book had been
-- written in when the caller last heard of it.
local call, prefix, methods = redis.call, KEYS[1], {}
local asked, arguments = ARGV[1], cjson.decode(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
    local time = call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- The book's key holds its format and its mark. A book without it is empty, whatever was there before.
local format, mark = string.match(call('GET', prefix .. 'book') or '', '^(%d+) (.+)$')
if format and tonumber(format) > VERSION then return {'newer'} end
local turn = tonumber(call('GET', prefix .. 'turn') or '') or 0
local is_older = ARGV[4] ~= '' and ARGV[4] == mark and turn < tonumber(ARGV[7]) -- then it is another from now on
if not format or is_older then
    mark = ARGV[5]
    call('SET', prefix .. 'book', VERSION .. ' ' .. mark)
end
if ARGV[4] ~= '' and ARGV[4] ~= mark then return {'lost', mark} end

local function named(...) return prefix .. table.concat({...}, ':') end

-- Doubles as text, to the last bit.
local function text(figure) return string.format('%.17g', figure) end

-- A finite figure that is not negative, or nil.
local function number(said)
    local figure = tonumber(said or '')
    if figure and figure >= 0 and figure < math.huge then return figure end
end

local function whole(said) return math.floor(number(said) or 0) end

local function day_of(moment) return math.floor(moment / DAY_S) end

local function next_midnight(moment) return (day_of(moment) + 1) * DAY_S end

-- A hash as a table.
local function read(key)
    local row, flat = {}, call('HGETALL', key)
    for i = 1, #flat, 2 do row[flat[i]] = flat[i + 1] end
    return row
end

-- Whoever asked for what goes by `id` was not told of it and does not want it any more; what they asked may come still.
local function give_up(id) call('SET', named('given_up', id), 1, 'EX', GIVEN_UP_S) end

local function is_given_up(id) return call('EXISTS', named('given_up', id)) == 1 end

local function account_of(key) return call('HGET', named('names'), key) or key end

-- --- amounts: USD as {dollars, billionths, billionths of these}, each whole; nil when not known ------------------------

local BILLION = 1e9
local NOTHING = {0, 0, 0}

local function amount(said)
    local dollars, nanos, attos = string.match(said or '', '^(%d+)%.(%d%d%d%d%d%d%d%d%d)(%d%d%d%d%d%d%d%d%d)$')
    if dollars and #dollars <= 15 then return {tonumber(dollars), tonumber(nanos), tonumber(attos)} end
end

local function plus(one, other)
    if not one or not other then return nil end
    local attos = one[3] + other[3]
    local nanos = one[2] + other[2] + math.floor(attos / BILLION)
    return {one[1] + other[1] + math.floor(nanos / BILLION), nanos % BILLION, attos % BILLION}
end

-- Nil also when less than nothing would be left.
local function minus(one, other)
    if not one or not other then return nil end
    local attos = one[3] - other[3]
    local nanos = one[2] - other[2] + math.floor(attos / BILLION)
    local dollars = one[1] - other[1] + math.floor(nanos / BILLION)
    if dollars >= 0 then return {dollars, nanos % BILLION, attos % BILLION} end
end

-- What is not known is more than anything.
local function is_within(one, most) return one ~= nil and minus(most, one) ~= nil end

local function usd(one) return one and string.format('%.0f.%09.0f%09.0f', one[1], one[2], one[3]) or 'unknown' end
