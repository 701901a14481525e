-- Every change of a job's record; one call is one atomic change. ARGV: prefix, function, its arguments.
-- record.py puts outbox.lua and fairness.lua where they are named.
-- A call whose reply was lost is made again, so each of them does no more the second time, and answers as the first.
-- What the states and keys mean is said in record.py.
local P = ARGV[1]
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
local api = {}
local EVENTS_KEPT = 1000
local EVENTS_KEPT_MS = 3600 * 1000 -- after the end

local function job_key(id) return P .. 'job:' .. id end
local function get(id, field) return redis.call('HGET', job_key(id), field) end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end

-- include outbox.lua
-- include fairness.lua

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
  line_up(id)
end

local function leave_queue(id)
  step_out(id)
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

-- id, tenant, max_queued, max_queued_of_tenant, priority_rank, idempotency_key or '', fingerprint, answer, idempotency_ttl_ms, field, value …
-- -> {'created'} | {'replayed', answer} | {'conflict'} | {'full'} | {'tenant_full'}
function api.create(id, tenant, max_queued, max_of_tenant, rank, idempotency, fingerprint, answer, ttl, ...)
  if get(id, 'status') then return {'created'} end
  local remembered = P .. 'idempotency:' .. tenant .. ':' .. idempotency
  if idempotency ~= '' then
    local first = redis.call('HMGET', remembered, 'fingerprint', 'answer')
    if first[1] then
      if first[1] == fingerprint then return {'replayed', first[2]} end
      return {'conflict'}
    end
  end
  if redis.call('ZCARD', P .. 'queued') >= tonumber(max_queued) then return {'full'} end
  if redis.call('ZCARD', P .. 'jobs:' .. tenant .. ':queued') >= tonumber(max_of_tenant) then
    return {'tenant_full'}
  end
  set(id, 'id', id, 'tenant', tenant, 'seq', 0, 'attempt', 0, 'ran_ms', 0, 'queue_score', rank * 1e13 + NOW, ...)
  local patience = get(id, 'start_timeout_ms')
  if patience then redis.call('ZADD', P .. 'start_by', NOW + patience, id) end
  redis.call('ZADD', P .. 'jobs:' .. tenant, get(id, 'created_ms'), id)
  queue_up(id)
  tell_status(id)
  if idempotency ~= '' then
    redis.call('HSET', remembered, 'fingerprint', fingerprint, 'answer', answer)
    redis.call('PEXPIRE', remembered, ttl)
  end
  return {'created'}
end

-- -> the attempt's number, or why there is none: 'missing' | 'leased' | a final status
function api.start(id, token, worker, lease_ms)
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
  take_turn(id)
  leave_queue(id)
  local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
  enter(id, 'running')
  set(id, 'lease', token, 'worker', worker, 'leased_ms', NOW, 'tokens', (get(id, 'tokens') or '') .. token .. ' ')
  local is_first = redis.call('HSETNX', job_key(id), 'started_ms', NOW) == 1
  redis.call('ZADD', P .. 'running', NOW + lease_ms, id)
  tell_status(id)
  if is_first then notify(id, 'job.started') end
  return attempt
end

-- the holder lives; what is not '' is told -> 'held' | 'cancel' | 'lost'
function api.report(id, token, lease_ms, progress, preview, checkpoint, frame)
  if not holds(id, token) then return 'lost' end
  redis.call('ZADD', P .. 'running', 'XX', NOW + lease_ms, id)
  if checkpoint ~= '' then set(id, 'checkpoint', checkpoint) end
  if progress ~= '' then
    set(id, 'progress', progress)
    tell(id, 'progress', progress)
  end
  if preview ~= '' then tell(id, 'preview', preview) end
  if frame ~= '' then tell(id, 'frame', frame) end
  if get(id, 'cancel_requested_ms') then return 'cancel' end
  return 'held'
end

-- -> 1, or 0 if the lease was lost: then nothing changes
function api.finish(id, token, status, outputs, error)
  if had(id, token, status) then return 1 end
  if not holds(id, token) then return 0 end
  finish(id, status, outputs, error)
  return 1
end

-- the holder cannot go on, and this attempt counts -> 1 | 0
function api.give_up(id, token)
  if had(id, token, 'queued') or had(id, token, 'failed') or had(id, token, 'canceled') then return 1 end
  if not holds(id, token) then return 0 end
  recover(id)
  return 1
end

-- the holder stops without an end; the attempt does not count -> 1 | 0
function api.hand_back(id, token)
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

-- -> 'missing' | 'canceled' | 'requested' | a final status
function api.cancel(id, tenant)
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

-- -> 'missing' | 'deleted' | the status of a job that is not final
function api.delete(id, tenant)
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
  local told = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'running', '-inf', NOW, 'LIMIT', 0, 100)) do
    table.insert(told, id)
    table.insert(told, recover(id))
  end
  return told
end

-- ends the jobs that nobody started in time -> their ids
function api.expire_late()
  local late = redis.call('ZRANGEBYSCORE', P .. 'start_by', '-inf', NOW, 'LIMIT', 0, 100)
  for _, id in ipairs(late) do expire(id) end
  return late
end

-- the store holds no more of a final job than its record names
function api.tidied(id) return redis.call('ZREM', P .. 'untidy', id) end

-- ids of jobs that have been final for age_ms and may have left files behind
function api.untidy(age_ms)
  return redis.call('ZRANGEBYSCORE', P .. 'untidy', '-inf', NOW - age_ms, 'LIMIT', 0, 100)
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

-- a worker shows itself for ttl_ms; empty details: it leaves
function api.worker(name, details, ttl_ms)
  redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', NOW)
  if details == '' then
    redis.call('ZREM', P .. 'workers', name)
    redis.call('DEL', P .. 'worker:' .. name)
  else
    redis.call('ZADD', P .. 'workers', NOW + ttl_ms, name)
    redis.call('SET', P .. 'worker:' .. name, details, 'PX', ttl_ms)
  end
end

return api[ARGV[2]](unpack(ARGV, 3))
