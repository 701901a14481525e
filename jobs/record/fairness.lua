-- Which job is next. A rank is a priority of a type: 0 to 2 are high to low of the first type, 3 to 5 of the second
-- (priorities.py). Within a priority the tenant that was served least recently goes first, with its oldest job, so
-- that a thousand jobs of one tenant delay each other tenant's by a single job.

-- jobs of that rank have this score in `queued`, or more
local function score_of(rank) return string.format('%.0f', rank * 1e13) end

local function keys_of(id)
  local rank, tenant = math.floor(get(id, 'queue_score') / 1e13), get(id, 'tenant')
  return P .. 'waiting:' .. rank .. ':' .. tenant, P .. 'tenants:' .. rank, tenant, rank
end

local function enqueue(id)
  local waiting, tenants, tenant = keys_of(id)
  local score = get(id, 'queue_score')
  redis.call('ZADD', P .. 'queued', score, id)
  redis.call('ZADD', waiting, score, id)
  redis.call('ZADD', tenants, redis.call('HGET', P .. 'served', tenant) or 0, tenant)
end

local function dequeue(id)
  local waiting, tenants, tenant = keys_of(id)
  redis.call('ZREM', P .. 'queued', id)
  redis.call('ZREM', waiting, id)
  if redis.call('EXISTS', waiting) == 0 then redis.call('ZREM', tenants, tenant) end
end

-- the tenant of a job that starts goes behind the others
local function count_turn(id)
  local tenant, turn = get(id, 'tenant'), redis.call('INCR', P .. 'turn')
  redis.call('HSET', P .. 'served', tenant, turn)
  for rank = 0, RANKS - 1 do redis.call('ZADD', P .. 'tenants:' .. rank, 'XX', turn, tenant) end
end

-- first_rank of a type -> its job that starts next, or nothing
function api.next(args)
  for rank = args.first_rank, args.first_rank + PRIORITIES - 1 do
    local tenant = redis.call('ZRANGE', P .. 'tenants:' .. rank, 0, 0)[1]
    if tenant then return redis.call('ZRANGE', P .. 'waiting:' .. rank .. ':' .. tenant, 0, 0)[1] end
  end
end

-- first_rank of a type -> how many of its jobs wait
function api.waiting(args)
  local first = args.first_rank
  return redis.call('ZCOUNT', P .. 'queued', score_of(first), '(' .. score_of(first + PRIORITIES))
end

-- first_rank of a type, count -> so many of its first jobs
function api.first_waiting(args)
  local least, most = score_of(args.first_rank), '(' .. score_of(args.first_rank + PRIORITIES)
  return redis.call('ZRANGEBYSCORE', P .. 'queued', least, most, 'LIMIT', 0, args.count)
end

-- id -> how many jobs start before this one, if no other comes; nothing if it does not wait
function api.position(args)
  local id = args.id
  if not redis.call('ZSCORE', P .. 'queued', id) then return false end
  local waiting, tenants, tenant, rank = keys_of(id)
  local own = redis.call('ZRANK', waiting, id)
  local first = rank - rank % PRIORITIES
  local before = redis.call('ZCOUNT', P .. 'queued', score_of(first), '(' .. score_of(rank)) + own
  local sooner = 1 -- tenants whose turn is before this one's start one job more
  for _, other in ipairs(redis.call('ZRANGE', tenants, 0, -1)) do
    if other == tenant then
      sooner = 0
    else
      before = before + math.min(redis.call('ZCARD', P .. 'waiting:' .. rank .. ':' .. other), own + sooner)
    end
  end
  return before
end
