-- Requests. `slots:ACCOUNT` and `slots:ACCOUNT:CALLER` rank ids by the moments they are for; the hash `slots` says of
-- each id when it was made, and whose it is; `made:ACCOUNT` is when the latest was. `account:ACCOUNT` is a hash of what
-- OpenRouter said.

local function put_slot(id, account, caller, at, made)
    if is_given_up(id) then return end
    call('ZADD', named('slots', account), text(at), id)
    call('ZADD', named('slots', account, caller), text(at), id)
    call('HSET', named('slots'), id, cjson.encode({text(made), account, caller}))
end

-- When it was made, its account and its caller; nothing when it is not there.
local function slot_of(id)
    local said = call('HGET', named('slots'), id)
    if said then return unpack(cjson.decode(said)) end
end

local function drop_slot(id)
    local _, account, caller = slot_of(id)
    if account then
        call('ZREM', named('slots', account), id)
        call('ZREM', named('slots', account, caller), id)
        call('HDEL', named('slots'), id)
    end
end

local function note_made(account, made)
    local latest = number(call('GET', named('made', account))) or 0
    call('SET', named('made', account), text(math.max(latest, made)))
end

-- Where the clock was set back, take what was to come later as of this moment.
local function set_back(account)
    if (number(call('GET', named('made', account))) or 0) <= now + 1 then return end
    local flat = call('ZRANGE', named('slots', account), 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
        local made, _, caller = slot_of(flat[i])
        if made and (number(made) or 0) > now + 1 then
            put_slot(flat[i], account, caller, math.min(tonumber(flat[i + 1]), now), now)
        end
    end
    call('SET', named('made', account), text(now))
end

local function tidy(account)
    local old = '(' .. text(now - KEPT_DAYS * DAY_S)
    for _, id in ipairs(call('ZRANGEBYSCORE', named('slots', account), '-inf', old, 'LIMIT', 0, MOST_AT_ONCE)) do
        drop_slot(id)
        call('ZREM', named('slots', account), id)
    end
    set_back(account)
    tidy_models()
    local row = named('account', account)
    local stops = call('HMGET', row, 'minute_stop', 'day_stop')
    if (number(stops[1]) or 0) > now + LONGEST_MINUTE_STOP_S then call('HSET', row, 'minute_stop', 0) end
    if (number(stops[2]) or 0) > next_midnight(now) + NEW_DAY_S then call('HSET', row, 'day_stop', 0) end
end

-- --- the window -------------------------------------------------------------------------------------------------------

local function fits(taken, moment, window, limit)
    local place = #taken
    while place > 0 and taken[place] > moment do place = place - 1 end
    local around = {}
    for i = math.max(1, place - limit + 1), place do around[#around + 1] = taken[i] end
    around[#around + 1] = moment
    for i = place + 1, math.min(#taken, place + limit) do around[#around + 1] = taken[i] end
    for i = 1, #around - limit do
        if around[i + limit] - around[i] < window - ROUNDING_S then return false end
    end
    return true
end

-- The first moment from `start` on at which one more leaves every span of `window` with at most `limit`. `taken` is
-- sorted.
local function earliest(taken, start, window, limit)
    if fits(taken, start, window, limit) then return start end
    for _, moment in ipairs(taken) do
        if moment + window > start and fits(taken, moment + window, window, limit) then return moment + window end
    end
end

-- --- an account as it stands, with the moments `more` that are about to be taken ---------------------------------------

local function account_as_it_stands(account)
    local row = call('HMGET', named('account', account), 'day', 'day_limit', 'elsewhere', 'minute_stop', 'day_stop')
    return {
        account = account,
        day = number(row[1]),
        day_limit = row[2] and number(row[2]) and whole(row[2]),
        elsewhere = whole(row[3]),
        minute_stop = number(row[4]) or 0,
        day_stop = number(row[5]) or 0,
        more = {},
    }
end

-- Those from `first` on and before `last`, of all or of one caller.
local function counted(key, more, first, last)
    local found = call('ZCOUNT', key, text(first), '(' .. text(last))
    for _, moment in ipairs(more) do
        if moment >= first and moment < last then found = found + 1 end
    end
    return found
end

local function of_day(key, more, moment)
    local day = day_of(moment) * DAY_S
    return counted(key, more, day, day + DAY_S)
end

-- Sorted, those after `moment`.
local function taken_since(key, more, moment)
    local taken, flat = {}, call('ZRANGEBYSCORE', key, '(' .. text(moment), '+inf', 'WITHSCORES')
    for i = 2, #flat, 2 do taken[#taken + 1] = tonumber(flat[i]) end
    for _, each in ipairs(more) do
        if each > moment then taken[#taken + 1] = each end
    end
    table.sort(taken)
    return taken
end

local function used_at(stand, moment)
    local elsewhere = stand.day == day_of(moment) and stand.elsewhere or 0
    local today = elsewhere + of_day(named('slots', stand.account), stand.more, moment)
    local left = stand.day_limit and math.max(0, stand.day_limit - today)
    local is_stopped = stand.day_stop > moment
    return {
        today = today,
        elsewhere = elsewhere,
        day_stopped = is_stopped and stand.day_stop or 0,
        left = is_stopped and 0 or left,
    }
end

local function left_of_share(account, caller, more, moment)
    if caller.may_ask_nothing then return 0 end
    return caller.per_day and math.max(0, caller.per_day - of_day(named('slots', account, caller.name), more, moment))
end

-- --- when the next may leave ------------------------------------------------------------------------------------------

-- The next moment with room, and whether it is the day's count that put it off.
local function next_of_all(stand, taken, moment, window, limit)
    local at = earliest(taken, math.max(moment, stand.minute_stop), window, limit)
    for _, put_off in ipairs({false, true}) do
        local used = used_at(stand, at)
        if used.left ~= 0 then return at, put_off end
        local from = used.day_stopped > 0 and used.day_stopped or next_midnight(at) + NEW_DAY_S
        at = earliest(taken, from, window, limit)
    end
    return at, true
end

-- The moment itself when the caller has a request left then; else a later one, and whether it is the day's share.
local function next_of_share(stand, caller, moment, window)
    if left_of_share(stand.account, caller, stand.more, moment) == 0 then return next_midnight(moment) + NEW_DAY_S, true end
    if not caller.per_minute then return moment, false end
    local taken = taken_since(named('slots', stand.account, caller.name), stand.more, moment - window)
    return earliest(taken, moment, window, caller.per_minute), false
end

-- The next moment for both; and, when that is too late, whose limit made it so, and whether that of the day.
local function next_for(stand, taken, a)
    local at, whose, daily = now, nil, nil
    while true do
        local shared, of_shared_day = next_of_all(stand, taken, at, a.window, math.max(1, a.limit - a.spare))
        local own, of_own_day = next_of_share(stand, a.caller, shared, a.window)
        if not whose and shared - now > a.longest_wait then whose, daily = 'all', of_shared_day end
        if not whose and own - now > a.longest_wait then whose, daily = 'own', of_own_day end
        if own == shared then return own, whose, daily end
        at = own
    end
end

-- {"refused", seconds, daily, left, fits, whose}
local function refused(seconds, daily, left, fitting, whose)
    return {'refused', text(seconds), daily and 1 or 0, left and text(left) or '', text(fitting), whose}
end

-- {"granted", now, at, ...}
function methods.reserve(a)
    local account = account_of(a.key)
    tidy(account)
    local stand = account_as_it_stands(account)
    local left = used_at(stand, now).left
    if a.caller.may_ask_nothing then return refused(next_midnight(now) - now, true, left, 0, 'own') end
    local taken = taken_since(named('slots', account), {}, now - a.window)
    local late, first, is_daily, at = 0, nil, false, nil
    for _ = 1, #a.ids do
        local whose, daily
        at, whose, daily = next_for(stand, taken, a)
        if whose then
            late, first = late + 1, first or whose
            is_daily = is_daily or (daily and whose == first)
        end
        table.insert(stand.more, at)
        table.insert(taken, at)
        table.sort(taken)
    end
    if first then return refused(at - now, is_daily, left, #a.ids - late, first) end
    local granted = {'granted', text(now)}
    for i, id in ipairs(a.ids) do
        put_slot(id, account, a.caller.name, stand.more[i], now)
        granted[i + 2] = text(stand.more[i])
    end
    if #a.ids > 0 then note_made(account, now) end
    return granted
end

function methods.give_back(a)
    for _, id in ipairs(a.ids) do drop_slot(id) end
    return ''
end

local function use(account, window)
    local stand = account_as_it_stands(account)
    local used = used_at(stand, now)
    return {
        text(counted(named('slots', account), {}, now - window, now + THIS_MOMENT_S)),
        text(used.today), text(used.elsewhere), stand.day_limit and text(stand.day_limit) or '',
        text(stand.minute_stop), text(used.day_stopped), used.left and text(used.left) or '',
    }
end

function methods.use(a) return use(account_of(a.key), a.window) end

function methods.look(a)
    local account = account_of(a.key)
    return {use(account, a.window), cooldowns(), sums_since(account, day_of(now) - HEALTH_DAYS + 1)}
end

function methods.share_left(a)
    local left = left_of_share(account_of(a.key), a.caller, {}, now)
    return left and text(left) or ''
end

function methods.note_count(a)
    local account = account_of(a.key)
    local sent = counted(named('slots', account), {}, day_of(now) * DAY_S, now + THIS_MOMENT_S)
    local elsewhere = math.max(used_at(account_as_it_stands(account), now).elsewhere, a.used - sent)
    call('HSET', named('account', account), 'day', text(day_of(now)), 'day_limit', text(a.limit), 'elsewhere', text(elsewhere))
    return ''
end

function methods.stop(a)
    local row, field = named('account', account_of(a.key)), a.daily and 'day_stop' or 'minute_stop'
    call('HSET', row, field, text(math.max(number(call('HGET', row, field)) or 0, a['until'])))
    return ''
end
