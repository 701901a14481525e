-- Whose turn it is: a part of record.lua. Within a priority the tenant that was served least recently goes first, with
-- its oldest job, so that a thousand jobs of one delay each other one's by a single job.

local function lane(id)
  local rank, tenant = math.floor(get(id, 'queue_score') / 1e13), get(id, 'tenant')
  return P .. 'waiting:' .. rank .. ':' .. tenant, P .. 'tenants:' .. rank, tenant, rank
end

local function line_up(id)
  local waiting, tenants, tenant = lane(id)
  local score = get(id, 'queue_score')
  redis.call('ZADD', P .. 'queued', score, id)
  redis.call('ZADD', waiting, score, id)
  redis.call('ZADD', tenants, redis.call('HGET', P .. 'served', tenant) or 0, tenant)
end

local function step_out(id)
  local waiting, tenants, tenant = lane(id)
  redis.call('ZREM', P .. 'queued', id)
  redis.call('ZREM', waiting, id)
  if redis.call('EXISTS', waiting) == 0 then redis.call('ZREM', tenants, tenant) end
end

-- the tenant of a job that starts goes behind the others
local function take_turn(id)
  local tenant, turn = get(id, 'tenant'), redis.call('INCR', P .. 'turn')
  redis.call('HSET', P .. 'served', tenant, turn)
  for rank = 0, 2 do redis.call('ZADD', P .. 'tenants:' .. rank, 'XX', turn, tenant) end
end

-- the job that is to start next, or nothing
function api.next()
  for rank = 0, 2 do
    local tenant = redis.call('ZRANGE', P .. 'tenants:' .. rank, 0, 0)[1]
    if tenant then return redis.call('ZRANGE', P .. 'waiting:' .. rank .. ':' .. tenant, 0, 0)[1] end
  end
end

-- how many jobs start before this one, if no other comes; nothing if it does not wait
function api.position(id)
  if not redis.call('ZSCORE', P .. 'queued', id) then return false end
  local waiting, tenants, tenant, rank = lane(id)
  local own = redis.call('ZRANK', waiting, id)
  local before = redis.call('ZCOUNT', P .. 'queued', '-inf', '(' .. string.format('%.0f', rank * 1e13)) + own
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
