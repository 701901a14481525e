-- What the other parts share. record.py puts the parts together, below constants of its own: PREFIX, PRIORITIES,
-- RANKS, EVENTS_KEPT, EVENTS_KEPT_MS, PER_DESTINATION.
-- One call of the script is one function of `api` with one table of named arguments, and one atomic change. A call
-- whose reply was lost is made again: so each function does no more the second time, and answers as the first.
-- What the states and keys mean is said in record.py.
local P = PREFIX
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
local api = {}

local function job_key(id) return P .. 'job:' .. id end
local function get(id, field) return redis.call('HGET', job_key(id), field) end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end
