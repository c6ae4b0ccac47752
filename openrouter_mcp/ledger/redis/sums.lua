-- Daily sums. `sums:ACCOUNT:DAY` is a hash: "CALLER MODEL" to "asked failed prompt completion seconds cost".
-- `sums:ACCOUNT` are its days.

local function read_sum(said)
    local figures = {}
    for figure in string.gmatch(said or '0 0 0 0 0 ' .. usd(NOTHING), '%S+') do figures[#figures + 1] = figure end
    local cost = amount(figures[6])
    for i = 1, 5 do figures[i] = math.min(number(figures[i]) or 0, MOST) end
    return {whole(figures[1]), whole(figures[2]), whole(figures[3]), whole(figures[4]), figures[5], cost = cost}
end

-- Add `figures`, and apply to the cost what `of_cost` does.
local function add(account, day, caller, model, figures, of_cost)
    local key, field = named('sums', account, day), caller .. ' ' .. model
    local said = call('HGET', key, field)
    if not said then
        call('ZADD', named('sums', account), day, day)
        for _, old in ipairs(call('ZRANGEBYSCORE', named('sums', account), '-inf', '(' .. day - SUMS_KEPT_DAYS)) do
            call('DEL', named('sums', account, old))
            call('ZREM', named('sums', account), old)
        end
    end
    local sum = read_sum(said)
    for i = 1, 5 do sum[i] = math.min(sum[i] + (figures[i] or 0), MOST) end
    local cost = usd(of_cost(sum.cost))
    call('HSET', key, field, string.format('%.0f %.0f %.0f %.0f %.17g %s', sum[1], sum[2], sum[3], sum[4], sum[5], cost))
end

local function note(account, day, ended)
    local cost = amount(ended.cost)
    for _, model in ipairs(ended.models) do
        add(account, day, ended.caller, model, ended.figures, function(before) return plus(before, cost) end)
    end
end

local function rename_sums(before, account)
    local days = call('ZRANGE', named('sums', before), 0, -1)
    for _, day in ipairs(days) do
        for field, said in pairs(read(named('sums', before, day))) do
            local caller, model = string.match(field, '^(%S*) (.*)$')
            local sum = read_sum(said)
            if model then
                add(account, tonumber(day), caller, model, sum, function(cost) return plus(cost, sum.cost) end)
            end
        end
        call('DEL', named('sums', before, day))
    end
    call('DEL', named('sums', before))
end

-- {day, field, sum, ...} from a day on.
local function sums_since(account, first)
    local rows = {}
    for _, day in ipairs(call('ZRANGEBYSCORE', named('sums', account), first, '+inf')) do
        local flat = call('HGETALL', named('sums', account, day))
        for i = 1, #flat, 2 do
            rows[#rows + 1], rows[#rows + 2], rows[#rows + 3] = day, flat[i], flat[i + 1]
        end
    end
    return rows
end

function methods.count(a)
    note(account_of(a.key), a.day, a.ended)
    return ''
end

function methods.month(a)
    return {text(now), sums_since(account_of(a.key), day_of(now) - LONGEST_MONTH_DAYS + 1)}
end
