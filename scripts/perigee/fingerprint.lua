-- fingerprint.lua: what a Lua function captures. A trace bakes captured numbers in and binds captured tensors, so a
-- compiled function must notice when they are no longer the ones it saw (DESIGN 6.4).
--
-- Watched are: upvalues; fields of tables among them and globals whose names occur in the code; and the same of
-- captured functions; of an object (a model) those that its metatable's __watch(object) lists. Watching what the code
-- names keeps unrelated globals from costing a new trace.
local core = require "perigee.core"

local getinfo, getupvalue, dump = debug.getinfo, debug.getupvalue, string.dump
local is_tensor = core.is_tensor
local M = {}

local MOST_VISITS, DEPTH = 400, 4

-- Functions made by transforms stand for the user's function inside them.
local wrapped = setmetatable({}, { __mode = "k" })

-- Say that `outer` computes with the user's function `inner`.
function M.wrap(outer, inner)
  wrapped[outer] = inner
  return outer
end

local function is_simple(x)
  local kind = type(x)
  return kind == "number" or kind == "boolean" or kind == "string" or kind == "nil" or is_tensor(x)
end

local visit_function

-- An object's functions are visited as if each were captured by itself.
local function visit_object(state, x, meta)
  if state.seen[x] or not (type(meta) == "table" and meta.__watch) then return end
  state.seen[x] = true
  for _, f in ipairs(meta.__watch(x)) do visit_function(state, f, DEPTH) end
end

local function visit_value(state, x, depth)
  local meta = getmetatable(x)
  if type(x) == "function" then
    visit_function(state, x, depth)
  elseif type(x) == "table" and meta ~= nil then
    visit_object(state, x, meta)
  elseif type(x) == "table" and depth > 0 and not state.seen[x] then
    state.seen[x] = true
    state.visits = state.visits + 1
    if state.visits > MOST_VISITS then return end
    state.tables[#state.tables + 1] = { x, depth }
  end
end

function visit_function(state, f, depth)
  while wrapped[f] do f = wrapped[f] end
  if state.seen[f] or depth < 0 or state.visits > MOST_VISITS then return end
  state.seen[f] = true
  state.visits = state.visits + 1
  local info = getinfo(f, "S")
  if info.what == "C" or info.source:sub(1, 10) == "=[perigee]" then return end
  state.code[#state.code + 1] = dump(f, true)
  for i = 1, 255 do
    local name, value = getupvalue(f, i)
    if not name then break end
    if name ~= "_ENV" then
      if is_simple(value) or type(value) == "function" or type(value) == "table" then
        state.upvalues[#state.upvalues + 1] = { f, i, value }
      end
      visit_value(state, value, depth - 1)
    elseif not state.seen[value] then
      state.seen[value] = true
      state.tables[#state.tables + 1] = { value, 2 }
    end
  end
end

-- Whether the visited code may name this key.
local function is_named(state, key)
  if type(key) ~= "string" then return type(key) == "number" and key <= 64 end
  for _, code in ipairs(state.code) do
    if code:find(key, 1, true) then return true end
  end
  return false
end

local function visit_table(state, t, depth)
  for key, value in next, t do
    if is_named(state, key) and not (type(value) == "table" and package and value == package.loaded) then
      if is_simple(value) then state.fields[#state.fields + 1] = { t, key, value } end
      visit_value(state, value, depth - 1)
    end
  end
end

-- What f, a function or an object that can be called, captures now.
function M.take(f)
  local state = { seen = {}, visits = 0, code = {}, upvalues = {}, tables = {}, fields = {} }
  visit_value(state, f, DEPTH)
  local i = 1
  while state.tables[i] do
    visit_table(state, state.tables[i][1], state.tables[i][2])
    i = i + 1
  end
  return { upvalues = state.upvalues, fields = state.fields }
end

local function same(a, b)
  return rawequal(a, b) or (a ~= a and b ~= b)
end

-- Whether f still captures what it did.
function M.holds(print)
  for _, u in ipairs(print.upvalues) do
    local _, value = getupvalue(u[1], u[2])
    if not same(value, u[3]) then return false end
  end
  for _, field in ipairs(print.fields) do
    if not same(rawget(field[1], field[2]), field[3]) then return false end
  end
  return true
end

return M
