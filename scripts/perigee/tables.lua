-- tables.lua: the tables of an optimizer's state around its programs: the one that a correction declares (pg.rows), and
-- the cache of a correction's statistics at its snapshot. Owns when they get their rows, and what is brought into the
-- staging tensors before a step and kept after it.

local core = require "perigee.core"
local passes = require "perigee.passes"
local row_table = require "perigee.row_table"
local rows = require "perigee.rows"
local rows_check = require "perigee.rows_check"

local tables = {}

-- The cache of a correction, if it has one.
function tables.cache(c)
  if not c.cache then return nil end
  return row_table.new("correction " .. c.name, rows.rows { per = "batch", file = c.cache == "file" },
    { volatile = true, advice = 'cache = "file" keeps them on disk, cache = false evaluates again' })
end

local function need_source(opt, evaluator)
  if not evaluator.source then
    core.raise(("correction %s keeps rows for the examples: give the evaluator a source"):format(opt.correction.name))
  end
  return evaluator.source
end

-- How many numbers a row has, by field. batch: for the output of a linear model.
local function widths_of(opt, st, evaluator, batch, spec)
  local widths = {}
  for _, field in ipairs(st.stats) do
    widths[field] = spec.linear and rows_check.width(opt, st, evaluator, batch) or rows.width(st, field)
  end
  return widths
end

local function batches_of_pass(st, source, count) return count or (source.n + st.pass_size - 1) // st.pass_size end

-- Make the tables that programs for batches like this one need.
function tables.prepare(opt, st, evaluator, batch)
  local table, cache = st.memory and st.memory.table, st.cache
  if table then
    local spec, source = table.spec, need_source(opt, evaluator)
    if spec.per == "example" then rows.check_per_example(opt, st, evaluator, batch, spec.linear) end
    local n = spec.per == "example" and source.n or batches_of_pass(st, source)
    table:ensure(n, table.widths or widths_of(opt, st, evaluator, batch, spec), st.theta.dtype)
    if spec.per == "example" and source.ids and not table.numbered then
      table:number(source.ids)
      table.numbered = true
    end
  end
  if cache then
    local c = opt.correction
    local n = batches_of_pass(st, need_source(opt, evaluator), c.mega ~= "full" and c.mega or nil)
    cache:ensure(n, cache.widths or widths_of(opt, st, evaluator, batch, cache.spec), st.theta.dtype)
  end
end

-- Before a corrected step and its refresh: what only real data can show.
function tables.check(opt, st, evaluator, batch, key)
  local table = st.memory.table
  if table and table.spec.linear and not table.checked then
    rows.check_per_example(opt, st, evaluator, batch, true)
    rows_check.run(opt, st, evaluator, batch, key)
    table.checked = true
  end
end

-- Before a corrected step's program runs, and after it. The rows of a table are kept only now: a step that failed has
-- changed nothing. peek: for a probe, which leaves no trace in a table.
function tables.load(call, batch, count, peek)
  local st = call.st
  local table, cache = st.memory.table, st.cache
  if table then
    st.scalars.share = (batch.count or count) / call.evaluator.source.n
    table[peek and "peek" or "load"](table, batch, count)
  end
  if cache then
    if not cache:has(batch) then passes.recover(call, batch) end
    cache:load(batch, count)
  end
end

function tables.store(st, batch, count)
  local table = st.memory.table
  if table then table:store(batch, count) end
end

return tables
