-- Those that change nothing.
local READS = {
    use = true, look = true, share_left = true, account = true, month = true, spent = true, closures = true,
    doubts = true, is_leased = true,
}

-- What may have been granted to somebody who was never told, and then what is asked for.
if ARGV[6] ~= '' then
    local unheard = cjson.decode(ARGV[6])
    methods.give_back({ids = unheard.slots})
    methods.release({ids = unheard.charges})
    for _, ids in ipairs({unheard.slots, unheard.charges}) do
        for _, id in ipairs(ids) do give_up(id) end
    end
end
local said = methods[asked](arguments)
if not READS[asked] then turn = call('INCR', prefix .. 'turn') end
return {'done', mark, said, turn}
