-- Every change of a collection; one call is one atomic change. vectors.py says what the keys hold.
-- KEYS: its record, vectors and ids. ARGV: function, uid, its arguments.
-- A call whose reply was lost is made again, so each of them does no more the second time.
local record, vectors, ids = KEYS[1], KEYS[2], KEYS[3]
local uid = ARGV[2]
local api = {}
local GRAVEYARD = 15 -- the last of the databases that a Redis has by default

function api.create(...)
  if redis.call('EXISTS', record) == 0 then redis.call('HSET', record, 'uid', uid, ...) end
  return redis.call('HGETALL', record)
end

-- UNLINK frees a vector set before it returns, and holds everybody up; what is in a database that is flushed is freed
-- on a thread. So it goes into one that is empty, if there is one and it is.
function api.delete()
  redis.call('UNLINK', record, ids)
  local doomed = vectors .. ':' .. uid
  if redis.call('EXISTS', vectors) == 0 then return end
  redis.call('RENAME', vectors, doomed)
  if redis.pcall('MOVE', doomed, GRAVEYARD) == 1 then redis.call('SELECT', GRAVEYARD) end
  if redis.call('DBSIZE') == 1 then redis.call('FLUSHDB', 'ASYNC') else redis.call('UNLINK', doomed) end
end

function api.add(limit, id, vector, attributes)
  local known = redis.call('ZSCORE', ids, id)
  if not known and redis.call('ZCARD', ids) >= tonumber(limit) then return 'full' end
  local field = redis.call('HMGET', record, 'quantization', 'ef_construction', 'm')
  redis.call('VADD', vectors, 'FP32', vector, id, field[1], 'EF', field[2], 'SETATTR', attributes, 'M', field[3])
  redis.call('ZADD', ids, 0, id)
  return known and 'replaced' or 'created'
end

function api.describe(id, attributes)
  if not redis.call('ZSCORE', ids, id) then return 'missing' end
  redis.call('VSETATTR', vectors, id, attributes)
  return 'described'
end

function api.remove(id)
  if redis.call('ZREM', ids, id) == 0 then return 'missing' end
  redis.call('VREM', vectors, id)
  return 'removed'
end

-- whoever read the record may come late: it may have been deleted since, or made anew with another model
if ARGV[1] ~= 'create' and redis.call('HGET', record, 'uid') ~= uid then return 'gone' end
return api[ARGV[1]](unpack(ARGV, 3))
