-- Models. `cooldowns` ranks them by when they may be asked again; `failures` is a hash to "COUNT REASON".

local function forget_models(models)
    if #models > 0 then
        call('ZREM', named('cooldowns'), unpack(models))
        call('HDEL', named('failures'), unpack(models))
    end
end

local function tidy_models()
    for _, range in ipairs({{'-inf', '(' .. text(now - DAY_S)}, {'(' .. text(now + LONGEST_COOLDOWN_S), '+inf'}}) do
        forget_models(call('ZRANGEBYSCORE', named('cooldowns'), range[1], range[2], 'LIMIT', 0, MOST_AT_ONCE))
    end
end

-- {model, until, "COUNT REASON", ...}
local function cooldowns()
    local rows, flat = {}, call('ZRANGE', named('cooldowns'), 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
        rows[#rows + 1], rows[#rows + 2] = flat[i], flat[i + 1]
        rows[#rows + 1] = call('HGET', named('failures'), flat[i]) or ''
    end
    return rows
end

function methods.cool(a)
    for _, model in ipairs(a.models) do
        local failures = 0
        if call('ZSCORE', named('cooldowns'), model) then
            failures = whole(string.match(call('HGET', named('failures'), model) or '', '^%S+'))
        end
        local pause = math.min(math.max(a.hint, a.shortest * 2 ^ math.min(failures, 10)), LONGEST_COOLDOWN_S)
        call('ZADD', named('cooldowns'), text(now + pause), model)
        call('HSET', named('failures'), model, string.format('%.0f %s', failures + 1, a.reason))
    end
    return ''
end

function methods.probe(a)
    local avoided, until_then = {}, a['until'] or now + a.lease
    for _, model in ipairs(a.models) do
        local ends = call('ZSCORE', named('cooldowns'), model)
        if ends and tonumber(ends) > now then
            avoided[#avoided + 1] = model
        elseif ends then
            call('ZADD', named('cooldowns'), text(until_then), model)
        end
    end
    return avoided
end

function methods.recover(a)
    forget_models({a.model})
    return ''
end
