-- The states of a job: each function is one change of its record.
local function tell(id, event, data)
  redis.call('HINCRBY', job_key(id), 'seq', 1)
  redis.call('XADD', P .. 'events:' .. id, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', event, 'data', data)
end

local function enter(id, status)
  local tenant, created = get(id, 'tenant'), get(id, 'created_ms')
  local old = get(id, 'status')
  if old then redis.call('ZREM', P .. 'jobs:' .. tenant .. ':' .. old, id) end
  redis.call('ZADD', P .. 'jobs:' .. tenant .. ':' .. status, created, id)
  set(id, 'status', status)
end

local function tell_status(id)
  tell(id, 'status', cjson.encode({status = get(id, 'status'), attempt = tonumber(get(id, 'attempt'))}))
end

local function queue_up(id)
  enter(id, 'queued')
  enqueue(id)
end

local function leave_queue(id)
  dequeue(id)
  redis.call('ZREM', P .. 'start_by', id)
end

local function release(id)
  local token = get(id, 'lease')
  if token then
    set(id, 'last_lease', token)
    redis.call('HINCRBY', job_key(id), 'ran_ms', NOW - (get(id, 'leased_ms') or NOW))
  end
  redis.call('HDEL', job_key(id), 'lease', 'worker')
  redis.call('ZREM', P .. 'running', id)
end

local function finish(id, status, outputs, error)
  release(id)
  leave_queue(id)
  local expires = NOW + get(id, 'retention_ms')
  enter(id, status)
  set(id, 'finished_ms', NOW, 'expires_ms', expires, 'outputs', outputs, 'error', error)
  redis.call('ZADD', P .. 'final', expires, id)
  redis.call('ZADD', P .. 'untidy', NOW, id)
  tell(id, 'completed', '{}')
  redis.call('PEXPIRE', P .. 'events:' .. id, EVENTS_KEPT_MS) -- later readers get the record itself
  notify(id, 'job.' .. status)
end

local function holds(id, token) return get(id, 'lease') == token end

-- what a holder's last call left behind, when it asks again
local function had(id, token, status) return get(id, 'last_lease') == token and get(id, 'status') == status end

local function is_final(status) return status ~= 'queued' and status ~= 'running' end

-- a job that nobody started in time -> whether this is one
local function expire(id)
  local start_by = redis.call('ZSCORE', P .. 'start_by', id)
  if not start_by or tonumber(start_by) > NOW then return false end
  finish(id, 'expired', '[]', '')
  return true
end

-- a lease that ran out: back into the queue, or the end of it
local function recover(id)
  release(id)
  if get(id, 'cancel_requested_ms') then
    finish(id, 'canceled', '[]', '')
    return 'canceled'
  end
  if tonumber(get(id, 'ran_ms')) >= tonumber(get(id, 'run_timeout_ms') or math.huge) then
    finish(id, 'failed', '[]', cjson.encode({
      code = 'timeout', detail = 'the job took longer than it may', retryable = false}))
    return 'failed'
  end
  if tonumber(get(id, 'attempt')) >= tonumber(get(id, 'max_attempts')) then
    finish(id, 'failed', '[]', cjson.encode({
      code = 'worker_lost', detail = 'every worker that ran this job was lost', retryable = true}))
    return 'failed'
  end
  queue_up(id)
  tell_status(id)
  return 'queued'
end

-- id, tenant, fields, rank, max_queued, max_queued_of_tenant;
-- idempotency, if there is one: key, fingerprint, answer, ttl_ms
-- -> {'created'} | {'replayed', answer} | {'conflict'} | {'full'} | {'tenant_full'}
function api.create(args)
  local id, tenant, idempotency = args.id, args.tenant, args.idempotency
  if get(id, 'status') then return {'created'} end
  local remembered = idempotency and P .. 'idempotency:' .. tenant .. ':' .. idempotency.key
  if idempotency then
    local first = redis.call('HMGET', remembered, 'fingerprint', 'answer')
    if first[1] then
      if first[1] == idempotency.fingerprint then return {'replayed', first[2]} end
      return {'conflict'}
    end
  end
  if redis.call('ZCARD', P .. 'queued') >= args.max_queued then return {'full'} end
  if redis.call('ZCARD', P .. 'jobs:' .. tenant .. ':queued') >= args.max_queued_of_tenant then
    return {'tenant_full'}
  end
  set(id, 'id', id, 'tenant', tenant, 'seq', 0, 'attempt', 0, 'ran_ms', 0, 'queue_score', args.rank * 1e13 + NOW)
  for field, value in pairs(args.fields) do set(id, field, value) end
  local patience = get(id, 'start_timeout_ms')
  if patience then redis.call('ZADD', P .. 'start_by', NOW + patience, id) end
  redis.call('ZADD', P .. 'jobs:' .. tenant, get(id, 'created_ms'), id)
  queue_up(id)
  tell_status(id)
  if idempotency then
    redis.call('HSET', remembered, 'fingerprint', idempotency.fingerprint, 'answer', idempotency.answer)
    redis.call('PEXPIRE', remembered, idempotency.ttl_ms)
  end
  return {'created'}
end

-- id, token, worker, lease_ms -> the attempt's number, or why there is none: 'missing' | 'leased' | a final status
function api.start(args)
  local id, token = args.id, args.token
  local status = get(id, 'status')
  if not status then return 'missing' end
  if status == 'running' then
    if holds(id, token) then return tonumber(get(id, 'attempt')) end
    if tonumber(redis.call('ZSCORE', P .. 'running', id) or 0) > NOW then return 'leased' end
    local now = recover(id)
    if now ~= 'queued' then return now end
  elseif is_final(status) then
    return status
  elseif expire(id) then
    return 'expired'
  end
  count_turn(id)
  leave_queue(id)
  local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
  enter(id, 'running')
  set(id, 'lease', token, 'worker', args.worker, 'leased_ms', NOW, 'tokens', (get(id, 'tokens') or '') .. token .. ' ')
  local is_first = redis.call('HSETNX', job_key(id), 'started_ms', NOW) == 1
  redis.call('ZADD', P .. 'running', NOW + args.lease_ms, id)
  tell_status(id)
  if is_first then notify(id, 'job.started') end
  return attempt
end

-- the holder lives: id, token, lease_ms; progress, preview, checkpoint, frame, where they are new
-- -> 'held' | 'cancel' | 'lost'
function api.report(args)
  local id = args.id
  if not holds(id, args.token) then return 'lost' end
  redis.call('ZADD', P .. 'running', 'XX', NOW + args.lease_ms, id)
  if args.checkpoint then set(id, 'checkpoint', args.checkpoint) end
  if args.progress then
    set(id, 'progress', args.progress)
    tell(id, 'progress', args.progress)
  end
  if args.preview then tell(id, 'preview', args.preview) end
  if args.frame then tell(id, 'frame', args.frame) end
  if get(id, 'cancel_requested_ms') then return 'cancel' end
  return 'held'
end

-- id, token, status, outputs, error -> 1, or 0 if the lease was lost: then nothing changes
function api.finish(args)
  if had(args.id, args.token, args.status) then return 1 end
  if not holds(args.id, args.token) then return 0 end
  finish(args.id, args.status, args.outputs, args.error)
  return 1
end

-- the holder cannot go on, and this attempt counts: id, token -> 1 | 0
function api.give_up(args)
  local id, token = args.id, args.token
  if had(id, token, 'queued') or had(id, token, 'failed') or had(id, token, 'canceled') then return 1 end
  if not holds(id, token) then return 0 end
  recover(id)
  return 1
end

-- the holder stops without an end; the attempt does not count: id, token -> 1 | 0
function api.hand_back(args)
  local id, token = args.id, args.token
  if had(id, token, 'queued') or had(id, token, 'canceled') then return 1 end
  if not holds(id, token) then return 0 end
  release(id)
  redis.call('HINCRBY', job_key(id), 'attempt', -1)
  if get(id, 'cancel_requested_ms') then
    finish(id, 'canceled', '[]', '')
  else
    queue_up(id)
    tell_status(id)
  end
  return 1
end

-- id, tenant -> 'missing' | 'canceled' | 'requested' | a final status
function api.cancel(args)
  local id, tenant = args.id, args.tenant
  local status = get(id, 'status')
  if not status or get(id, 'tenant') ~= tenant then return 'missing' end
  if is_final(status) then return status end
  if status == 'queued' then
    set(id, 'cancel_requested_ms', NOW)
    finish(id, 'canceled', '[]', '')
    return 'canceled'
  end
  if redis.call('HSETNX', job_key(id), 'cancel_requested_ms', NOW) == 1 then tell_status(id) end
  return 'requested'
end

-- id, tenant -> 'missing' | 'deleted' | the status of a job that is not final
function api.delete(args)
  local id, tenant = args.id, args.tenant
  local status = get(id, 'status')
  if not status or get(id, 'tenant') ~= tenant then return 'missing' end
  if not is_final(status) then return status end
  redis.call('ZREM', P .. 'jobs:' .. tenant, id)
  redis.call('ZREM', P .. 'jobs:' .. tenant .. ':' .. status, id)
  redis.call('ZREM', P .. 'final', id)
  redis.call('ZREM', P .. 'untidy', id)
  forget_deliveries(id)
  redis.call('DEL', job_key(id), P .. 'events:' .. id)
  return 'deleted'
end

-- takes back every lease that ran out -> {id, 'queued' | 'failed' | 'canceled', …}
function api.recover_lost()
  local recovered = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'running', '-inf', NOW, 'LIMIT', 0, 100)) do
    table.insert(recovered, id)
    table.insert(recovered, recover(id))
  end
  return recovered
end

-- ends the jobs that nobody started in time -> their ids
function api.expire_late()
  local late = redis.call('ZRANGEBYSCORE', P .. 'start_by', '-inf', NOW, 'LIMIT', 0, 100)
  for _, id in ipairs(late) do expire(id) end
  return late
end

-- the store holds no more of the final job `id` than its record names
function api.tidied(args) return redis.call('ZREM', P .. 'untidy', args.id) end

-- ids of jobs that have been final for age_ms and may have left files behind
function api.untidy(args)
  return redis.call('ZRANGEBYSCORE', P .. 'untidy', '-inf', NOW - args.age_ms, 'LIMIT', 0, 100)
end

-- {id, tenant, …} of final jobs whose time is up
function api.forgettable()
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'final', '-inf', NOW, 'LIMIT', 0, 100)) do
    table.insert(found, id)
    table.insert(found, get(id, 'tenant'))
  end
  return found
end

-- a worker shows itself: name, details, ttl_ms; without details it leaves
function api.worker(args)
  local name = args.name
  redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', NOW)
  if not args.details then
    redis.call('ZREM', P .. 'workers', name)
    redis.call('DEL', P .. 'worker:' .. name)
  else
    redis.call('ZADD', P .. 'workers', NOW + args.ttl_ms, name)
    redis.call('SET', P .. 'worker:' .. name, args.details, 'PX', args.ttl_ms)
  end
end

return api[ARGV[1]](cjson.decode(ARGV[2]))
