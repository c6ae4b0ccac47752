-- Batches. `batch:ID` is a hash; `batches` ranks ids by day, `batches:ACCOUNT` are an account's; `promised:ID` are the
-- charges held for one and not drawn. And what belongs to no other file: whose a key is, what a person was asked.

local function batch_of(id)
    local batch = read(named('batch', id))
    return batch.account and batch
end

local function put_batch(id, batch)
    call('HSET', named('batch', id), 'account', batch.account, 'day', batch.day, 'holder', batch.holder,
        'until', batch['until'], 'requests', batch.requests, 'caller', batch.caller or '')
    call('ZADD', named('batches'), batch.day, id)
    call('SADD', named('batches', batch.account), id)
end

local function drop_batch(id)
    local batch = batch_of(id)
    if batch then call('SREM', named('batches', batch.account), id) end
    call('ZREM', named('batches'), id)
    call('DEL', named('batch', id))
end

-- What was held for it and never drawn was for requests that were never sent.
local function free(id)
    for _, charge in ipairs(call('SMEMBERS', named('promised', id))) do drop_charge(charge) end
    call('DEL', named('promised', id))
end

local function forget_old_batches()
    local old = '(' .. day_of(now) - KEPT_DAYS
    for _, id in ipairs(call('ZRANGEBYSCORE', named('batches'), '-inf', old, 'LIMIT', 0, MOST_AT_ONCE)) do
        for _, charge in ipairs(call('SMEMBERS', named('promised', id))) do
            call('HDEL', named('charge', charge), 'batch')
        end
        call('DEL', named('promised', id))
        drop_batch(id)
    end
end

-- How many requests of today the batches still need: of all, and of one caller.
local function promised(account, caller)
    local of_all, of_one = 0, 0
    for _, id in ipairs(call('SMEMBERS', named('batches', account))) do
        local said = call('HMGET', named('batch', id), 'day', 'requests', 'caller')
        if number(said[1]) == day_of(now) then
            of_all = of_all + whole(said[2])
            if said[3] == caller then of_one = of_one + whole(said[2]) end
        end
    end
    return of_all, of_one
end

function methods.promise(a)
    forget_old_batches()
    local account = account_of(a.key)
    local left = used_at(account_as_it_stands(account), now).left
    local own = left_of_share(account, a.caller, {}, now)
    local of_all, of_one = promised(account, a.caller.name)
    local fitting, whose = a.requests, 'all'
    if left then fitting = math.max(0, left - a.spare - of_all) end
    if own then
        local fitting_own = math.max(0, own - of_one)
        if not left or fitting_own < fitting then fitting, whose = fitting_own, 'own' end
    end
    if a.requests > fitting then return refused(next_midnight(now) - now, true, left, fitting, whose) end
    put_batch(a.batch, {
        account = account, day = text(day_of(now)), holder = '', ['until'] = '0', requests = text(a.requests),
        caller = a.caller.name,
    })
    return {'granted'}
end

local function is_leased(batch)
    local left = batch and (number(batch['until']) or 0) - now
    return batch and left > 0 and left <= LEASE_S + LEASE_TOLERANCE_S -- more is another clock's
end

function methods.take(a)
    local batch = batch_of(a.batch)
    if batch and batch.holder ~= a.holder then
        if is_leased(batch) then return 0 end
        free(a.batch)
    end
    batch = batch or {account = account_of(a.key), day = text(day_of(now)), requests = '0'}
    batch.holder, batch['until'] = a.holder, text(now + LEASE_S)
    put_batch(a.batch, batch)
    return 1
end

function methods.renew(a)
    local batch = batch_of(a.batch)
    if not batch or batch.holder ~= a.holder then return 0 end
    batch['until'], batch.requests, batch.day = text(now + LEASE_S), text(a.requests), text(day_of(now))
    put_batch(a.batch, batch)
    return 1
end

function methods.draw(a)
    local batch = call('HGET', named('charge', a.id), 'batch')
    if not batch then return 0 end
    call('SREM', named('promised', batch), a.id)
    return call('HDEL', named('charge', a.id), 'batch')
end

function methods.leave(a)
    local batch = batch_of(a.batch)
    if batch and batch.holder == a.holder then
        call('HSET', named('batch', a.batch), 'until', '0')
        free(a.batch)
    end
    return ''
end

methods['end'] = function(a)
    free(a.batch)
    drop_batch(a.batch)
    return ''
end

function methods.is_leased(a) return is_leased(batch_of(a.batch)) and 1 or 0 end

-- --- whose a key is: the hash `names` ----------------------------------------------------------------------------------

local function rename_row(before, account)
    local from, to = named('account', before), named('account', account)
    if call('EXISTS', from) == 0 then return end
    if call('EXISTS', to) == 0 then return call('RENAME', from, to) end
    for _, field in ipairs({'minute_stop', 'day_stop'}) do
        local latest = math.max(number(call('HGET', from, field)) or 0, number(call('HGET', to, field)) or 0)
        call('HSET', to, field, text(latest))
    end
    call('DEL', from)
end

local function rename_slots(before, account)
    local flat = call('ZRANGE', named('slots', before), 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
        local made, _, caller = slot_of(flat[i])
        drop_slot(flat[i])
        if made then
            put_slot(flat[i], account, caller, tonumber(flat[i + 1]), number(made) or 0)
            note_made(account, number(made) or 0)
        end
    end
    call('DEL', named('slots', before), named('made', before))
end

function methods.account(a) return account_of(a.key) end

function methods.name(a)
    call('HSET', named('names'), a.key, a.account)
    if a.key == a.account then return '' end
    rename_slots(a.key, a.account)
    for _, id in ipairs(call('SMEMBERS', named('charges', a.key))) do
        local charge = lift(id)
        if charge then
            charge.account = a.account
            lay(id, charge)
        end
    end
    for _, id in ipairs(call('SMEMBERS', named('batches', a.key))) do
        call('SMOVE', named('batches', a.key), named('batches', a.account), id)
        call('HSET', named('batch', id), 'account', a.account)
    end
    rename_sums(a.key, a.account)
    rename_row(a.key, a.account)
    return ''
end

-- --- what a person was asked: `seals` ranks by when they are forgotten -------------------------------------------------

function methods.seal(a)
    call('ZREMRANGEBYSCORE', named('seals'), '-inf', '(' .. text(now))
    return call('ZADD', named('seals'), 'NX', text(now + SEAL_KEPT_S), a.seal)
end
