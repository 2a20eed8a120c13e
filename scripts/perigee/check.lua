-- check.lua: `perigee check`: a recipe run for a few steps to look at it. Asks whether the recipe's own method repeats:
-- three steps, save, load, three steps against six at once; and whether its correction does what a correction must.

local files = require("perigee.core").data
local options = require "perigee.options"
local rule = require "perigee.rule"

local check = {}

local STEPS = 3

local function remove_tree(path)
  local found = files.stat(path)
  if found and found.type == "directory" then
    for _, name in ipairs(files.list(path)) do remove_tree(path .. "/" .. name) end
  end
  files.remove(path)
end

-- A directory of its own below the run root, and the function that removes it.
function check.scratch_directory(flags)
  local path = ("%s/.check-%d"):format(flags.runs or "runs", files.pid())
  files.mkdir(path)
  return path, function() remove_tree(path) end
end

local function newest(directory)
  local list = require("perigee.checkpoint").list(directory .. "/checkpoints")
  return list[1] and list[1].path
end

local function same_file(a, b)
  return a ~= nil and b ~= nil and files.exists(a) and files.exists(b) and files.read_file(a) == files.read_file(b)
end

-- The first line in which two metrics files differ, for a person.
local function first_difference(a, b)
  local left, right = files.read_file(a), files.read_file(b)
  local next_right = right:gmatch("([^\n]*)\n")
  for line in left:gmatch("([^\n]*)\n") do
    local other = next_right()
    if other ~= line then return ("      at once: %s\n      resumed: %s\n"):format(line, other or "(nothing)") end
  end
  return "      the resumed run wrote more\n"
end

local function compare(whole, parts, out)
  local failures = 0
  for i, one in ipairs(whole) do
    local other = parts[i]
    local metrics, metrics_other = one.directory .. "/metrics.jsonl", other and other.directory .. "/metrics.jsonl"
    local same = other and other.name == one.name and same_file(metrics, metrics_other)
      and same_file(newest(one.directory), newest(other.directory))
    out:write(("%s %s: %d steps, save, load, %d steps: %s\n"):format(same and "ok  " or "FAIL", one.name, STEPS, STEPS,
      same and "the same bits as at once" or "other bits than at once"))
    if not same then
      failures = failures + 1
      if other and files.exists(metrics_other) then out:write(first_difference(metrics, metrics_other)) end
    end
  end
  return failures
end

-- ---- the method -----------------------------------------------------------------------------------------------------

-- A rule that stays where it is and keeps what it saw.
local function watching_rule()
  return rule.define {
    name = "watch", state = { "g" }, hyper = { lr = 1 }, -- a correction may bring a step size
    update = function(p, stats, s)
      s.g = stats.g
      return p
    end,
  }
end

local function same_tensors(a, b)
  for i, entry in ipairs(a) do
    if b[i][1] ~= entry[1] or b[i][2]:bytes() ~= entry[2]:bytes() then return false end
  end
  return #a == #b
end

-- Posterior, buffers and rule state: what a correction that does nothing must leave as it would be.
local function moving_parts(st)
  local out = {}
  for _, entry in ipairs(st:tensors()) do
    if not entry[1]:match("^correction") and not entry[1]:match("^snapshot") then out[#out + 1] = entry end
  end
  return out
end

-- Whether, right after a refresh, two batches give the same statistics.
local function is_exact(given, has_alpha)
  local c = given.optimizer.correction
  -- a snapshot by running statistics differs from the same point by those of the batch, and should
  local changes = { start = 0, batch_norm = "batch" }
  if has_alpha then changes.alpha = 1 end
  local still = given.optimizer:with({ rule = watching_rule(), correction = c:with(changes) })
  local function seen_on(k)
    local parts = given.start(still)
    given.step(parts, k)
    return parts.st.rule.g:bytes()
  end
  return seen_on(1) == seen_on(2)
end

-- Whether the method with alpha = 0 is the plain one, bit for bit.
local function vanishes(given)
  local c = given.optimizer.correction
  local off = given.start(given.optimizer:with({ correction = c:with { alpha = 0 } }))
  local plain = given.start(given.optimizer:with({ correction = false }))
  for k = 1, STEPS do
    given.step(off, k)
    given.step(plain, k)
  end
  return same_tensors(moving_parts(off.st), moving_parts(plain.st))
end

-- What a corrected method must do. given: { name, optimizer, start(optimizer) → parts with .st, step(parts, k) }, from
-- pg.train. → number of failures
local function examine_method(given, out)
  local c = given.optimizer.correction
  if not c then return 0 end
  local failures, has_alpha = 0, c.hyper.given.alpha ~= nil
  local function report(ok, what)
    out:write(("%s %s: %s\n"):format(ok and "ok  " or "FAIL", given.name, what))
    failures = failures + (ok and 0 or 1)
  end
  local is_locked = c.noise == "shared" and c.lock.dropout and c.lock.augment
  if (c.definition.exact or has_alpha) and is_locked then
    report(is_exact(given, has_alpha), "at the snapshot the corrected gradient is the same for every batch")
  end
  if has_alpha then report(vanishes(given), "with alpha = 0 it is the plain method, bit for bit") end
  return failures
end

-- ---- commands -------------------------------------------------------------------------------------------------------

-- `perigee check RECIPE key=value…` → exit code.
function check.check(path, words, flags)
  local cli, run = require "perigee.cli", require "perigee.run"
  local directory, remove = check.scratch_directory(flags)
  local failures = 0
  local function pass(how)
    local code, done = cli.call_muted(cli.run_recipe, path, words, flags, how)
    if code ~= 0 then
      remove()
      return nil, code
    end
    return done
  end
  local whole, code = pass { root = directory .. "/whole", limit = 2 * STEPS, inspect = function(given)
    failures = failures + examine_method(given, io.stdout)
  end }
  if not whole then return code end
  if #whole == 0 then
    remove()
    options.misused(path .. ": there is no pg.train or pg.run in it to check")
  end
  local begun
  begun, code = pass { root = directory .. "/parts", limit = STEPS }
  if not begun then return code end
  local found = assert(run.read_settings(begun[1].directory))
  local parts
  parts, code = pass { root = directory .. "/parts", limit = 2 * STEPS, resume = found.resume }
  if not parts then return code end
  failures = failures + compare(whole, parts, io.stdout)
  if failures == 0 then
    remove()
    return 0
  end
  io.stdout:write(("The runs are in %s.\n"):format(directory))
  return 1
end

return check
