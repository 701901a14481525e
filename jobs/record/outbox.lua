-- The outbox of webhooks: a delivery is written in the same call as the change that it reports. A receiver gets at
-- most PER_DESTINATION requests at once.

-- when a destination is next worth a look: its first delivery is due, or one that is under way ends
local function plan(destination)
  local first = redis.call('ZRANGE', P .. 'outbox:' .. destination, 0, 0, 'WITHSCORES')[2]
  if not first then return redis.call('ZREM', P .. 'destinations', destination) end
  local sending = redis.call('ZRANGE', P .. 'sending:' .. destination, 0, -1, 'WITHSCORES')
  if #sending >= 2 * PER_DESTINATION then first = math.max(tonumber(first), tonumber(sending[2])) end
  redis.call('ZADD', P .. 'destinations', first, destination)
end

-- a delivery for the outbox, if the job's webhook asks for this event; call it when the record is as it is to be told
local function notify(id, event)
  local webhook = get(id, 'webhook')
  if not webhook then return end
  webhook = cjson.decode(webhook)
  for _, wanted in ipairs(webhook.events) do
    if wanted == event then
      local delivery = 'msg_' .. id:sub(5) .. '_' .. get(id, 'seq')
      redis.call('HSET', P .. 'delivery:' .. delivery, 'id', delivery, 'job', id, 'event', event,
        'destination', webhook.destination, 'state', 'pending', 'attempts', 0, 'created_ms', NOW, 'next_ms', NOW)
      redis.call('COPY', job_key(id), P .. 'snapshot:' .. delivery)
      redis.call('RPUSH', P .. 'deliveries:' .. id, delivery)
      redis.call('ZADD', P .. 'outbox:' .. webhook.destination, NOW, delivery)
      plan(webhook.destination)
    end
  end
end

local function forget_deliveries(id)
  for _, delivery in ipairs(redis.call('LRANGE', P .. 'deliveries:' .. id, 0, -1)) do
    local destination = redis.call('HGET', P .. 'delivery:' .. delivery, 'destination')
    redis.call('ZREM', P .. 'outbox:' .. destination, delivery)
    redis.call('ZREM', P .. 'sending:' .. destination, delivery)
    redis.call('DEL', P .. 'delivery:' .. delivery, P .. 'snapshot:' .. delivery)
    plan(destination)
  end
  redis.call('DEL', P .. 'deliveries:' .. id)
end

-- takes deliveries that are due: token, count, visible_ms -> at most `count` ids, of as many destinations as there are
-- Until visible_ms have passed nobody else gets them: then their sender is taken for dead.
function api.claim(args)
  local token, count, visible_ms = args.token, args.count, args.visible_ms
  local taken = redis.call('LRANGE', P .. 'claim:' .. token, 0, -1)
  if #taken > 0 then return taken end
  local until_ms = NOW + visible_ms
  for _, destination in ipairs(redis.call('ZRANGEBYSCORE', P .. 'destinations', '-inf', NOW, 'LIMIT', 0, count)) do
    local outbox, sending = P .. 'outbox:' .. destination, P .. 'sending:' .. destination
    redis.call('ZREMRANGEBYSCORE', sending, '-inf', NOW)
    local room = math.min(PER_DESTINATION - redis.call('ZCARD', sending), count - #taken)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', outbox, '-inf', NOW, 'LIMIT', 0, math.max(room, 0))) do
      redis.call('ZADD', outbox, until_ms, id)
      redis.call('ZADD', sending, until_ms, id)
      redis.call('HSET', P .. 'delivery:' .. id, 'claim', token, 'next_ms', until_ms, 'last_ms', NOW)
      redis.call('HINCRBY', P .. 'delivery:' .. id, 'attempts', 1)
      redis.call('RPUSH', P .. 'claim:' .. token, id)
      table.insert(taken, id)
    end
    plan(destination)
  end
  redis.call('PEXPIRE', P .. 'claim:' .. token, visible_ms)
  return taken
end

-- how a claimed attempt ended: id, token, state, status, error, wait_ms. The delivery is 'delivered', 'failed' for
-- good, or 'pending' for wait_ms -> 1, or 0 if another sender has it by now: then nothing changes
function api.settle(args)
  local id, token, state = args.id, args.token, args.state
  local delivery = P .. 'delivery:' .. id
  local claim = redis.call('HMGET', delivery, 'claim', 'last_claim', 'destination')
  if claim[2] == token then return 1 end
  if claim[1] ~= token then return 0 end
  local outbox = P .. 'outbox:' .. claim[3]
  redis.call('HSET', delivery, 'state', state, 'last_status', args.status, 'last_error', args.error,
    'last_claim', token)
  redis.call('HDEL', delivery, 'claim', 'next_ms')
  redis.call('ZREM', P .. 'sending:' .. claim[3], id)
  if state == 'pending' then
    redis.call('HSET', delivery, 'next_ms', NOW + args.wait_ms)
    redis.call('ZADD', outbox, NOW + args.wait_ms, id)
  else
    redis.call('ZREM', outbox, id)
  end
  plan(claim[3])
  return 1
end

-- sends a delivery once more, as if it were new; one that is under way is left alone
-- id, delivery, token -> 1, or 0 if the job has no such delivery
function api.redeliver(args)
  local id, delivery, token = args.id, args.delivery, args.token
  local key = P .. 'delivery:' .. delivery
  local known = redis.call('HMGET', key, 'job', 'destination', 'redelivery')
  if known[1] ~= id then return 0 end
  if known[3] == token then return 1 end
  local under_way = redis.call('ZSCORE', P .. 'sending:' .. known[2], delivery)
  if under_way and tonumber(under_way) > NOW then return 1 end
  redis.call('HSET', key, 'state', 'pending', 'attempts', 0, 'next_ms', NOW, 'redelivery', token)
  redis.call('ZADD', P .. 'outbox:' .. known[2], NOW, delivery)
  plan(known[2])
  return 1
end
