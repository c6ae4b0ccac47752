-- Money. `charge:ID` is a hash; `charges` ranks ids by day, and `charges:ACCOUNT` are an account's. What would take long
-- to add up is kept added up: `spent:ACCOUNT:DAY`, and the same with a caller, are hashes of "COUNT USD" for `all`, what
-- is `held`, and `cost:MODEL`; `days:ACCOUNT` are the days that have one. `open:ACCOUNT` are charges that OpenRouter may
-- be asked about, `held:HOLDER` those of a process that have not ended; `holders` ranks these by their last sign of life.

-- Count `usd_more` in, or out again when `step` is -1.
local function shift(key, field, usd_more, step)
    local said = call('HGET', key, field)
    local count, sum = string.match(said or ('0 ' .. usd(NOTHING)), '^(%d+) (.*)$')
    count = (tonumber(count) or 0) + step
    if count <= 0 then return call('HDEL', key, field) end
    local change = step > 0 and plus or minus
    call('HSET', key, field, string.format('%.0f %s', count, usd(change(amount(sum), usd_more))))
end

local function tally(charge, step)
    local account, day = charge.account, charge.day
    local counts = amount(charge.cost or charge.amount)
    for _, key in ipairs({named('spent', account, day), named('spent', account, day, charge.caller)}) do
        shift(key, 'all', counts, step)
        shift(key, charge.cost and 'cost:' .. charge.model or 'held', counts, step)
    end
    if step > 0 then
        call('SADD', named('days', account), day)
    elseif call('EXISTS', named('spent', account, day)) == 0 then
        call('SREM', named('days', account), day)
    end
end

local function charge_of(id)
    local charge = read(named('charge', id))
    if charge.generation == '' then charge.generation = nil end
    return charge.account and charge.caller and charge.model and number(charge.day) and charge
end

local function index(id, charge)
    local may_be_due = charge.ended and charge.generation and not charge.cost and whole(charge.inquiries) < MOST_INQUIRIES
    local runs = charge.holder and not charge.cost and not charge.ended
    call('ZADD', named('charges'), charge.day, id)
    call('SADD', named('charges', charge.account), id)
    call(may_be_due and 'SADD' or 'SREM', named('open', charge.account), id)
    if charge.holder then call(runs and 'SADD' or 'SREM', named('held', charge.holder), id) end
end

-- Take a charge out of all accounts; whoever does puts it back with `lay`, or forgets it.
local function lift(id)
    local charge = charge_of(id)
    if not charge then return nil end
    tally(charge, -1)
    call('SREM', named('charges', charge.account), id)
    call('SREM', named('open', charge.account), id)
    return charge
end

local function lay(id, charge)
    local flat = {}
    for field, said in pairs(charge) do
        flat[#flat + 1], flat[#flat + 2] = field, said
    end
    call('HSET', named('charge', id), unpack(flat))
    tally(charge, 1)
    index(id, charge)
end

local function drop_charge(id)
    local charge = lift(id) or {}
    if charge.holder then call('SREM', named('held', charge.holder), id) end
    if charge.batch then call('SREM', named('promised', charge.batch), id) end
    call('ZREM', named('charges'), id)
    call('DEL', named('charge', id))
end

-- --- what is spent ----------------------------------------------------------------------------------------------------

-- What is kept added up for today and any day that a clock now says is yet to come: by one caller, or all.
local function tallies(account, caller)
    local keys, today = {}, day_of(now)
    for _, day in ipairs(call('SMEMBERS', named('days', account))) do
        if (number(day) or 0) >= today then
            keys[#keys + 1] = caller and named('spent', account, day, caller) or named('spent', account, day)
        end
    end
    return keys
end

local function sum_of(said) return amount(string.match(said, '^%d+ (.*)$')) end

local function spent_in_all(account, caller)
    local sum = NOTHING
    for _, key in ipairs(tallies(account, caller)) do
        local said = call('HGET', key, 'all')
        if said then sum = plus(sum, sum_of(said)) end
    end
    return sum
end

-- {held, model, cost, ...}; a model comes up once for each day.
local function spent(account, caller)
    local held, rows = NOTHING, {}
    for _, key in ipairs(tallies(account, caller)) do
        for field, said in pairs(read(key)) do
            local model = string.match(field, '^cost:(.*)$')
            if model then rows[#rows + 1], rows[#rows + 2] = model, usd(sum_of(said)) end
            if field == 'held' then held = plus(held, sum_of(said)) end
        end
    end
    table.insert(rows, 1, usd(held))
    return rows
end

function methods.spent(a) return spent(account_of(a.key), a.caller) end

-- --- holding and settling ---------------------------------------------------------------------------------------------

local function alive(holder) call('ZADD', named('holders'), text(now), holder) end

-- Not by `unpack`, which has a limit.
local function with(first, rows)
    table.insert(rows, 1, first)
    return rows
end

local function hold(account, wish)
    if not is_within(spent_in_all(account), amount(wish.room)) then return with('all', spent(account)) end
    if wish.own_room and not is_within(spent_in_all(account, wish.caller), amount(wish.own_room)) then
        return with('own', spent(account, wish.caller))
    end
    for i, id in ipairs(wish.ids) do
        local charge = {account = account, day = text(day_of(now)), caller = wish.caller, batch = wish.batch}
        charge.model, charge.amount, charge.holder = wish.models[i], wish.amounts[i], wish.holder
        if not is_given_up(id) then
            lay(id, charge)
            if wish.batch then call('SADD', named('promised', wish.batch), id) end
        end
    end
    if wish.holder then alive(wish.holder) end
    return {'held'}
end

function methods.hold(a)
    local old, account, answers = day_of(now) - KEPT_DAYS, account_of(a.key), {}
    for _, id in ipairs(call('ZRANGEBYSCORE', named('charges'), '-inf', '(' .. old, 'LIMIT', 0, MOST_AT_ONCE)) do
        drop_charge(id)
    end
    for i, wish in ipairs(a.wishes) do answers[i] = hold(account, wish) end
    return answers
end

-- What it ended in, once: who heard no answer says it again. Its cost is for the model that served, and counts when it
-- is known.
local function note_ended(charge, ended)
    if ended and not charge.noted then
        charge.model, charge.caller, charge.noted = ended.models[1], ended.caller, '1'
        note(charge.account, tonumber(charge.day), ended)
    end
end

local function settle(id, cost, ended)
    local charge = lift(id)
    if not charge then return end
    note_ended(charge, ended)
    local already, exact = charge.cost and amount(charge.cost), amount(cost)
    if not charge.cost then already = NOTHING end
    add(charge.account, tonumber(charge.day), charge.caller, charge.model, {}, function(before)
        if is_within(already, exact) then return plus(before, minus(exact, already)) end
        return minus(before, minus(already, exact))
    end)
    charge.cost = cost
    lay(id, charge)
end

function methods.settle(a)
    settle(a.id, a.cost, a.ended)
    return ''
end

function methods.release(a)
    for _, id in ipairs(a.ids) do drop_charge(id) end
    return ''
end

function methods.leave_open(a)
    local charge = lift(a.id)
    if charge then
        note_ended(charge, a.ended)
        charge.ended, charge.generation = text(now), a.generation
        if not a.generation then call('HDEL', named('charge', a.id), 'generation') end
        lay(a.id, charge)
    end
    return ''
end

-- --- processes that ended, and what is not known ----------------------------------------------------------------------

function methods.alive(a)
    alive(a.holder)
    return ''
end

function methods.note_generation(a)
    local charge = charge_of(a.id)
    if charge then
        charge.generation = a.generation
        call('HSET', named('charge', a.id), 'generation', a.generation)
        index(a.id, charge)
    end
    return ''
end

-- What a process held that is gone; what was promised to a batch and not drawn was never sent.
local function end_abandoned(holder)
    for _, id in ipairs(call('SMEMBERS', named('held', holder))) do
        local charge = charge_of(id)
        if not charge then
            call('SREM', named('held', holder), id)
        elseif charge.generation and not charge.batch then
            charge.ended = text(now)
            call('HSET', named('charge', id), 'ended', charge.ended)
            index(id, charge)
        elseif not charge.batch and amount(charge.amount) then
            settle(id, charge.amount)
        end
    end
end

function methods.due(a)
    local silent = call('ZRANGEBYSCORE', named('holders'), '-inf', '(' .. text(now - DEAD_S))
    for _, holder in ipairs(silent) do
        if holder ~= a.holder then end_abandoned(holder) end
        if call('EXISTS', named('held', holder)) == 0 then
            call('ZREM', named('holders'), holder)
        else
            call('ZADD', named('holders'), '-inf', holder)
        end
    end
    local found, open = {}, named('open', account_of(a.key))
    for _, id in ipairs(call('SMEMBERS', open)) do
        local charge = charge_of(id)
        local asked_before = charge and whole(charge.inquiries)
        local since = charge and now - (number(charge.ended) or 0)
        if not charge then
            call('SREM', open, id)
        elseif not (since >= 0 and since < FIRST_INQUIRY_S * 4 ^ asked_before) then
            found[#found + 1] = {id, charge.generation or '', charge.amount or ''}
            charge.inquiries = text(asked_before + 1)
            call('HSET', named('charge', id), 'inquiries', charge.inquiries)
            index(id, charge)
        end
    end
    return found
end

-- --- whether anything may be sent: `closures` is a list of "MOMENT REASON" ---------------------------------------------

local function closure(said)
    local at, reason = string.match(said, '^(%S*) (.*)$')
    return {text(number(at) or 0), reason or said}
end

function methods.shut(a)
    call('RPUSH', named('closures'), text(now) .. ' ' .. a.reason)
    return ''
end

function methods.closures()
    local found = call('LRANGE', named('closures'), 0, -1)
    for i, said in ipairs(found) do found[i] = closure(said) end
    return found
end

function methods.acknowledge(a)
    for _, said in ipairs(call('LRANGE', named('closures'), 0, -1)) do
        local at, reason = unpack(closure(said))
        for _, seen in ipairs(a.seen) do
            if seen[1] == tonumber(at) and seen[2] == reason then call('LREM', named('closures'), 0, said) end
        end
    end
    return ''
end

-- `lost` is a hash: the mark of each book that took a lost one's place, to what is to be said of it; empty once seen.

function methods.note_lost(a)
    call('HSETNX', named('lost'), mark, a.text)
    return ''
end

function methods.doubts()
    local found = {}
    for _, said in ipairs(call('HVALS', named('lost'))) do
        if said ~= '' then found[#found + 1] = said end
    end
    return found
end

function methods.forget_doubts(a)
    local seen = {}
    for _, said in ipairs(a.seen) do seen[said] = true end
    for field, said in pairs(read(named('lost'))) do
        if seen[said] then call('HSET', named('lost'), field, '') end
    end
    return ''
end
