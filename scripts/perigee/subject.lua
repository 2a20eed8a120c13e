-- subject.lua: what pg.predict and pg.probe look at, in the forms that people have at hand: the ctx of a hook of
-- pg.train, the result of pg.train, { optimizer =, state =, evaluator = } of a loop of one's own, an optimizer's state,
-- a posterior, or parameters alone.

local core = require "perigee.core"
local names = require "perigee.names"
local optimizer = require "perigee.optimizer"
local posterior = require "perigee.posterior"
local state = require "perigee.state"

local subject = {}

local FORMS = "ctx of a hook, the result of pg.train, or { optimizer =, state =, evaluator = }"

-- The first of the values that passes the test.
local function find(is, ...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if value ~= nil and is(value) then return value end
  end
end

-- A field that a guarded table may lack.
local function field(t, name) return rawget(t, name) end

local function of_state(st, opt, evaluator)
  return { st = st, q = st.q, theta = st.theta, buffers = st.buffers, opt = opt, evaluator = evaluator }
end

-- { theta, q, buffers, st, opt, evaluator, finished (whether it is the result of a run) } of what was given, as far as
-- it has them. owner: who asks. forms: what it may be given, for messages.
function subject.of(owner, given, forms)
  if core.is_tensor(given) and given.layout then
    return { theta = given, q = posterior.new({ "mean" }, { mean = given }) }
  elseif posterior.is(given) then
    return { theta = given.mean, q = given }
  elseif state.is(given) then
    return of_state(given)
  elseif type(given) == "table" then
    local st = find(state.is, field(given, "state"), field(given, "optimizer"))
    if st then
      local found = of_state(st, find(optimizer.is, field(given, "method"), field(given, "optimizer")),
        field(given, "evaluator"))
      found.finished = names.describe(given) == "a result"
      return found
    end
  end
  return core.raise(("%s looks at the %s, not at %s"):format(owner, forms or FORMS, names.describe(given)))
end

-- What each part is called.
local PARTS = { st = "state", opt = "optimizer", evaluator = "evaluator" }

-- The same, with the parts that are named: "st", "opt", "evaluator".
function subject.complete(owner, given, ...)
  local found = subject.of(owner, given)
  for _, part in ipairs { ... } do
    if not found[part] then
      core.raise(("%s needs the %s as well: give it the %s"):format(owner, PARTS[part], FORMS))
    end
  end
  return found
end

return subject
