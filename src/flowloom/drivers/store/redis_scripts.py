"""The Redis driver's data and the Lua scripts that are the only ones to touch them.

Under the prefix P, all in one hash slot, because P stands in braces:

- `{P}:meta`      hash: `program`, `schema`, `epoch`, `position` (of the newest change), `lineage`
- `{P}:index`     sorted set of all keys, score 0: a prefix is one range of it
- `{P}:version`   hash: key -> `<version> live|gone <token of the call that wrote it>`
- `{P}:value`     hash: key -> value; a tombstone has none
- `{P}:log`       stream: `<position>-0` -> key, written by the script that writes the object; no position is left out

So `HGET {P}:value /key` in redis-cli shows an object.  A script is one atomic step: nobody sees a part of it, and what
may be refused (memory, disk, role) is refused at its first write.

lineage is the primary's replication ID.  Redis makes a new one when a replica is promoted and when a primary restarts:
the moments at which acknowledged writes may be gone.  The first script after one of them gives the database another
epoch, so that nobody resumes in a history that may have been another one.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

PROGRAM = "flowloom northbound store"
SCHEMA = 1

PARTS = ("meta", "index", "version", "value", "log")


class Script(NamedTuple):
    """A Lua script and the digest that Redis knows it by."""

    text: str
    digest: str


# Every script begins so.  ARGV[1] is the epoch to go on under if the lineage is another one.
# Answers that are no content: {'absent'}, {'schema', n}, {'foreign', which}.
_HEAD = f"""
local meta, index, version, value, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lineage = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
local held = redis.call('HMGET', meta, 'schema', 'epoch', 'position', 'lineage')
if not held[1] then return {{'absent'}} end
if held[1] ~= '{SCHEMA}' then return {{'schema', held[1]}} end
local epoch, position = held[2], tonumber(held[3])
if held[4] ~= lineage then
  epoch = ARGV[1]
  redis.call('HSET', meta, 'epoch', epoch, 'lineage', lineage)
end
local function id(n) return string.format('%.0f-0', n) end
-- Versions have up to 63 bits, Lua's numbers 53: they are compared as decimals without leading zeros.
local function newer(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end
local function append(answer, keys)
  -- In portions, so that large values do not pile up in one reply; returns how many of `keys` are in it.
  local room, done = tonumber(ARGV[3]), 0
  while done < #keys and room > 0 do
    local portion = {{unpack(keys, done + 1, math.min(done + 50, #keys))}}
    local versions = redis.call('HMGET', version, unpack(portion))
    local values = ARGV[4] == 'values' and redis.call('HMGET', value, unpack(portion)) or {{}}
    for i, key in ipairs(portion) do
      answer[#answer + 1] = key
      answer[#answer + 1] = versions[i] or ''
      answer[#answer + 1] = values[i] or false
      room = room - (values[i] and #values[i] or 0) - 32
    end
    done = done + #portion
  end
  return done
end
"""


def _script(body: str, head: str = _HEAD) -> Script:
    text = head + body
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


# ARGV: epoch, epoch again.  Makes the database where there is nothing.
ENSURE = _script(
    f"""
local kinds = {{'hash', 'zset', 'hash', 'hash', 'stream'}}
local absent = redis.call('EXISTS', KEYS[1]) == 0
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and (absent or kind ~= kinds[i]) then return {{'foreign', key}} end
end
local lineage = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
if absent then
  redis.call('HSET', KEYS[1], 'program', '{PROGRAM}', 'schema', '{SCHEMA}', 'epoch', ARGV[1], 'position', '0',
    'lineage', lineage)
end
if redis.call('HGET', KEYS[1], 'program') ~= '{PROGRAM}' then return {{'foreign', KEYS[1]}} end
local schema = redis.call('HGET', KEYS[1], 'schema')
if schema ~= '{SCHEMA}' then return {{'schema', schema or ''}} end
return {{'ok'}}
""",
    head="",
)

# ARGV: epoch, token, log_max, then key, version, value of each write; `=` before a value, nothing for a tombstone.
# Answers {'ok', one a write: '' when applied, else the version held}.  A repeated call finds its own token.
APPLY = _script("""
local token, answer, before = ARGV[2], {'ok'}, position
for i = 4, #ARGV, 3 do
  local key, wanted, content = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local found = redis.call('HGET', version, key) or ''
  local number = string.match(found, '^[1-9]%d*') or '0'
  if newer(wanted, number) then
    position = position + 1
    redis.call('XADD', log, id(position), 'key', key)
    if content == '' then
      redis.call('HSET', version, key, wanted .. ' gone ' .. token)
      redis.call('HDEL', value, key)
    else
      redis.call('HSET', version, key, wanted .. ' live ' .. token)
      redis.call('HSET', value, key, string.sub(content, 2))
    end
    redis.call('ZADD', index, 0, key)
    answer[#answer + 1] = ''
  elseif number == wanted and string.sub(found, -#token) == token then
    answer[#answer + 1] = ''
  else
    answer[#answer + 1] = number
  end
end
if position > before then
  redis.call('HSET', meta, 'position', id(position):sub(1, -3))
  redis.call('XTRIM', log, 'MAXLEN', '~', ARGV[3])
end
return answer
""")

# ARGV: epoch, '', room in bytes, 'values' or '', then keys.  Answers {'ok', key, version, value, ...}, as many as fit.
GET = _script("""
local answer = {'ok'}
append(answer, {unpack(ARGV, 5)})
return answer
""")

# ARGV: epoch, '', room in bytes, 'values' or '', lower and upper bound, count.
# Answers {'ok', epoch, position, '1' when there may be more, key, version, value, ...}.
PAGE = _script("""
local keys = redis.call('ZRANGEBYLEX', index, ARGV[5], ARGV[6], 'LIMIT', 0, tonumber(ARGV[7]))
local answer = {'ok', epoch, id(position):sub(1, -3), ''}
local done = append(answer, keys)
if done < #keys or #keys == tonumber(ARGV[7]) then answer[4] = '1' end
return answer
""")

# ARGV: epoch, '', room in bytes, 'values' or '', prefix, position, count.
# Answers {'ok', epoch, position, position reached ('' when the log has a gap there), key, version, value, ...}.
CHANGES = _script("""
local prefix, since, reached = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[6])
local rows = redis.call('XRANGE', log, id(since + 1), '+', 'COUNT', ARGV[7])
local answer = {'ok', epoch, id(position):sub(1, -3), ''}
if since > position or (since < position and #rows == 0) then return answer end
local keys, at, known = {}, {}, {}
for _, row in ipairs(rows) do
  reached = reached + 1
  if row[1] ~= id(reached) then return answer end
  local key = row[2][2]
  if not known[key] and string.sub(key, 1, #prefix) == prefix then
    known[key] = true
    keys[#keys + 1], at[#at + 1] = key, reached
  end
end
local done = append(answer, keys)
if done < #keys then reached = at[done + 1] - 1 end
answer[4] = id(reached):sub(1, -3)
return answer
""")
