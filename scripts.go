package cacheaside

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

// A script is a Lua program that Redis runs, by the hash that Redis knows it by. The hash is written down here:
// a process that is held to FIPS 140 must not compute a SHA-1, and asking Redis for it would need one more
// permission.
//
// A server that does not know the script, because it has been restarted or SCRIPT FLUSH was called, is sent the
// text. That is one more round trip within the time of an operation, and there may be none left: where the
// server is far away, even the reply that it does not know the script comes too late. So the texts are also
// sent in the background, with a time of their own, and then the next operation finds them known.
type script struct {
	text string
	sha  string

	// idle are arguments with which the script changes nothing, whatever the key holds.
	idle []string
}

// notThere is what no key holds: neither a token nor an entry looks like it.
const notThere = "\x00nothing that a key of a cache holds"

// scripts are all that there are.
var scripts = []*script{
	&fillScript, &replaceScript, &dropScript, &releaseScript, &takeOverScript, &prolongScript, &touchScript, &markScript, &invalidateScript,
	&tellScript,
}

// Scripts tell an entry by its identity: its first bytes, which hold the header, and its length. Values are
// too large to send them along.
var (
	// fillScript: KEYS the key; ARGV token, value, PX or "".
	fillScript = script{text: `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1`, sha: "8f5c8b748880a7d5129e28ce08b3a6c89cceb788", idle: []string{notThere, "", ""}}

	// replaceScript: KEYS the key; ARGV first bytes, length or -1 for what is no string, value, PX or "".
	replaceScript = script{text: `
if redis.call('TYPE', KEYS[1]).ok == 'string' then
  if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[2]) then return 0 end
  if redis.call('GETRANGE', KEYS[1], 0, 31) ~= ARGV[1] then return 0 end
elseif ARGV[2] ~= '-1' then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[4] == '' then redis.call('SET', KEYS[1], ARGV[3])
else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4]) end
return 1`, sha: "f4a35665acdd211361801d3f39e458d680c0b42d", idle: []string{notThere, "-2", "", ""}}

	// dropScript: KEYS the key; ARGV first bytes, length. Deletes the entry with this identity.
	dropScript = script{text: `
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[2]) then return 0 end
if redis.call('GETRANGE', KEYS[1], 0, 31) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`, sha: "eff36bddd8c77a1f2b3d5cbd93ef70d1f1037ed0", idle: []string{notThere, "-2"}}

	// releaseScript: KEYS the lease's key; ARGV token.
	releaseScript = script{text: `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`, sha: "432633f13589ce36650cdbd1d4058a8f9e193ee9", idle: []string{notThere}}

	// touchScript: KEYS an entry that expires; ARGV "". Changes nothing, but Redis tells of a change.
	touchScript = script{text: `
if ARGV[1] ~= '' then return 0 end
local left = redis.call('PTTL', KEYS[1])
if left < 1 then return 0 end
return redis.call('PEXPIRE', KEYS[1], left)`, sha: "244faffe12554d6536bee8ab847eb00e12f28d36", idle: []string{notThere}}

	// takeOverScript: KEYS the lease's key; ARGV what stands there, or "" for whatever does, and token, PX to put
	// in its place if it is no lease, or one that does not expire in its time. A little more than its time is
	// allowed for, since a clock may be set back.
	takeOverScript = script{text: `
local held = redis.pcall('GET', KEYS[1])
if ARGV[1] ~= '' and held ~= ARGV[1] then return 0 end
local left, longest = redis.call('PTTL', KEYS[1]), -1
if type(held) == 'string' and #held == 36 and string.find(held, '^\202\019%x+[A-Z2-7]+$') then
  longest = tonumber(string.sub(held, 3, 10), 16) * 1.25
end
if left == -2 or left >= 0 and left <= longest then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`, sha: "b3077ff92feb5658c98169dc0693bd13825b9cfb", idle: []string{notThere, "", "1"}}

	// prolongScript: KEYS the leases' keys; ARGV their tokens, PX. Returns for each whether it was there. Redis tells
	// of a change of each, and then, since they are read once more, of the next change.
	prolongScript = script{text: `
local stands, held, there = redis.call('MGET', unpack(KEYS)), {}, {}
for i, key in ipairs(KEYS) do
  held[i] = 0
  if stands[i] == ARGV[i] then
    held[i] = redis.call('PEXPIRE', key, ARGV[#ARGV])
    there[#there + 1] = key
  end
end
if #there > 0 then redis.call('MGET', unpack(there)) end
return held`, sha: "e8ee8856b203136bd9c94eeea40ce2cac796d8d7", idle: []string{notThere, "1"}}
)

// The clock and the marks of tags hold an epoch of hexadecimal digits, a colon, and a number. What does not is as good as
// missing. A mark of another epoch than the clock's says nothing either. The clock also holds, behind another colon, which
// server moved it last: after a failover, or a restart, it may have been set back, and the next invalidation begins a
// new epoch. Where the user may not ask for the server, nothing stands there, and nothing is known of that.
var (
	// markScript: KEYS the clock, marks; ARGV an epoch for a clock that is missing, or "" to change nothing, and for how
	// many milliseconds the marks must last, or "". Returns the clock, and for each mark what it holds and when it
	// expires. A mark that is missing gets the time that it is now, and not that of who needs it: whether the tag was
	// invalidated before is not known.
	markScript = script{text: `
if ARGV[1] == '' then return 0 end
local function held(key)
  local text = redis.pcall('GET', key)
  if type(text) == 'string' and #text < 60 then return string.match(text, '^%x+:%d+') end
end
local now = held(KEYS[1])
if not now then
  now = ARGV[1] .. ':0'
  local info = redis.pcall('INFO', 'server')
  local server = string.match(type(info) == 'string' and info or '', 'run_id:(%x%x%x%x%x%x%x%x)') or ''
  redis.call('SET', KEYS[1], now .. ':' .. server)
end
local epoch, lasts, reply = string.match(now, '^%x+:'), tonumber(ARGV[2]), {now}
for i = 2, #KEYS do
  local mark, left = held(KEYS[i]), -1
  if not mark or string.sub(mark, 1, #epoch) ~= epoch then
    mark = now
    redis.call('SET', KEYS[i], mark)
    if lasts then left = 2 * lasts; redis.call('PEXPIRE', KEYS[i], left) end
  else
    left = redis.call('PTTL', KEYS[i])
    if left >= 0 and not lasts then left = -1; redis.call('PERSIST', KEYS[i]) end
    if left >= 0 and left < lasts then left = 2 * lasts; redis.call('PEXPIRE', KEYS[i], left) end
  end
  reply[2 * i - 2], reply[2 * i - 1] = mark, tostring(left)
end
return reply`, sha: "d5fbf9a16946c004e81735f2e854c0c96b5d4a3f", idle: []string{"", ""}}

	// invalidateScript: KEYS the clock, marks; ARGV an epoch for a clock that is missing, or "" to change nothing. Moves
	// the clock on, and sets the marks that there are: a missing one voids all that would need it. Returns the clock.
	invalidateScript = script{text: `
if ARGV[1] == '' then return 0 end
local text = redis.pcall('GET', KEYS[1])
local epoch, last, before = string.match(type(text) == 'string' and text or '', '^(%x+):(%d+):?(%x*)$')
local info = redis.pcall('INFO', 'server')
local server = string.match(type(info) == 'string' and info or '', 'run_id:(%x%x%x%x%x%x%x%x)') or before or ''
if not epoch or server ~= before then epoch, last = ARGV[1], '0' end
local now = epoch .. ':' .. string.format('%.0f', tonumber(last) + 1)
redis.call('SET', KEYS[1], now .. ':' .. server)
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], now, 'XX', 'KEEPTTL')
end
return now`, sha: "835e17744f0911726483eb3814cd8f8724229231", idle: []string{""}}
)

// run runs a script on one key, and returns its number.
func (o *op) run(s *script, key string, args ...string) (int64, error) {
	return o.call(s, []string{key}, args...).AsInt64()
}

// call runs a script on keys of one slot.
func (o *op) call(s *script, keys []string, args ...string) rueidis.RedisResult {
	reply := o.Do(o.ctx, o.evalshaOf(s, keys, args))
	if o.misses(reply.Error(), keys[0]) {
		return o.eval(s, keys, args)
	}
	return reply
}

// misses reports whether err, of a script that was run by its hash, says that the server does not know it. If so, or
// if the reply may have been that, the server is taught.
func (o *op) misses(err error, key string) bool {
	re, isReply := rueidis.IsRedisErr(err)
	missing := isReply && re.IsNoScript()
	if missing || !isReply && errors.Is(err, context.DeadlineExceeded) {
		o.conn.teach(key)
	}
	return missing
}

func (o *op) eval(s *script, keys, args []string) rueidis.RedisResult {
	return o.Do(o.ctx, o.evalOf(s, keys, args))
}

func (o *op) evalOf(s *script, keys, args []string) rueidis.Completed {
	return o.B().Eval().Script(s.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

func (o *op) evalshaOf(s *script, keys, args []string) rueidis.Completed {
	return o.B().Evalsha().Sha1(s.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// teachEvery is the shortest time from one lesson to the next.
const teachEvery = time.Second

// teach sends the texts of all scripts to the node that key belongs to, in the background: a server that does
// not know one seldom knows the others. It does so once in a while at most, since a server that is slow for
// another reason must not be given more to do.
func (n *conn) teach(key string) {
	now := time.Now().UnixNano()
	if last := n.taught.Load(); now-last < int64(teachEvery) || !n.taught.CompareAndSwap(last, now) || n.teaching.Swap(true) {
		return
	}
	go func() { // ends within OpTimeout for each script, or with the connection
		defer n.teaching.Store(false)
		for _, s := range scripts {
			_ = n.attempt(context.Background(), false, key, func(o *op) error { // the next operation that needs it tries again
				return o.eval(s, []string{key}, s.idle).Error()
			})
		}
	}()
}
