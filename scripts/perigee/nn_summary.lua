-- nn_summary.lua: model:summary, a table of a model's layers. With an input it traces the forward function once, so
-- that shapes, floating-point operations and memory are those of what the engine would run, whatever the modules are.

local call = require "perigee.nn_call"
local core = require "perigee.core"
local module = require "perigee.nn_module"
local text_table = require "perigee.table"
local tree = require "perigee.tree"
local bytes_of = require("perigee.tensor_args").bytes

local thousands = text_table.thousands

local function count_numbers(declarations)
  local count = 0
  for _, declared in ipairs(declarations) do
    local size = 1
    for _, extent in ipairs(declared.shape) do size = size * extent end
    count = count + size
  end
  return count
end

-- ---- rows ----

-- A row without what only a trace knows.
local function new_row(node, depth)
  return { path = node.path, name = node.path:match("[^.]*$"), kind = node.spec.kind, depth = depth, node = node,
    parameters = count_numbers(node.spec.parameters) }
end

-- Rows in the order of declaration.
local function declared_rows(node, depth, rows)
  rows[#rows + 1] = new_row(node, depth)
  for _, child in ipairs(node.spec.children) do declared_rows(node.children[child.name], depth + 1, rows) end
  return rows
end

local function leaves_of(x)
  local leaves = {}
  tree.flatten(x, leaves)
  local tensors = {}
  for _, leaf in ipairs(leaves) do if core.is_tensor(leaf) then tensors[#tensors + 1] = leaf end end
  return tensors
end

local function output_bytes(tensors)
  local bytes = 0
  for _, x in ipairs(tensors) do bytes = bytes + x.size * bytes_of[x.dtype] end
  return bytes
end

-- An observer of a call (nn_call.lua) that adds a row for each module called, in that order.
local function row_observer(rows)
  local open, calls = {}, {}
  return {
    enter = function(node, x)
      local row = new_row(node, #open)
      calls[node] = (calls[node] or 0) + 1
      if calls[node] > 1 then row.kind, row.parameters = ("%s, call %d"):format(row.kind, calls[node]), 0 end
      row.inputs, row.parent = leaves_of(x), open[#open]
      rows[#rows + 1], open[#open + 1] = row, row
    end,
    leave = function(node, ...)
      local row = table.remove(open)
      row.outputs = leaves_of { ... }
      row.bytes = (node.spec.keeps_memory or #node.spec.children > 0) and 0 or output_bytes(row.outputs)
    end,
  }
end

-- ---- tracing ----

-- Floating-point operations that these traced values take.
local function cost_of(trace, values)
  return #values == 0 and 0 or trace:compile(values, { executor = "interpret" }):info().flops
end

-- Operations of each row, without those of the modules in it: what its outputs cost beyond its inputs.
local function count_operations(trace, rows)
  for _, row in ipairs(rows) do
    local both = table.move(row.outputs, 1, #row.outputs, #row.inputs + 1, { table.unpack(row.inputs) })
    row.flops = math.tointeger(cost_of(trace, both) - cost_of(trace, row.inputs))
  end
  for _, row in ipairs(rows) do
    row.own_flops = (row.own_flops or 0) + row.flops
    if row.parent then row.parent.own_flops = (row.parent.own_flops or 0) - row.flops end
  end
end

-- Rows of a call with an input of this shape, outside training.
local function traced_rows(self, shape, dtype)
  local whole, rows = self.tree, {}
  local trace <close> = core.trace()
  local buffers = whole.buffer_layout and trace:input("f32", whole.buffer_layout) or nil
  call.run(whole, trace:input("f32", whole.layout), trace:input(dtype, shape), { train = false, buffers = buffers },
    row_observer(rows))
  count_operations(trace, rows)
  for _, row in ipairs(rows) do
    local first = row.outputs[1]
    row.shape, row.called = first and first.shape, true
    row.inputs, row.outputs = nil, nil
  end
  return rows
end

local function add_uncalled(rows, all)
  local called = {}
  for _, row in ipairs(rows) do called[row.node] = true end
  for _, row in ipairs(all) do if not called[row.node] then rows[#rows + 1] = row end end
end

-- ---- text ----

local function bytes_text(n)
  local units, k = { "B", "KiB", "MiB", "GiB", "TiB" }, 1
  while n >= 1024 and k < #units do n, k = n / 1024, k + 1 end
  return (k == 1 and "%d %s" or "%.1f %s"):format(n, units[k])
end

local function number_text(n)
  return n and n > 0 and thousands(n) or "-"
end

local function label(row)
  return ("  "):rep(row.depth) .. (row.name == "" and "(model)" or row.name)
end

local function shape_text(row)
  if not row.called then return "not called" end
  return row.shape and "[" .. table.concat(row.shape, ", ") .. "]" or "-"
end

local function tensors_text(node)
  local parts = {}
  for _, list in ipairs { node.spec.parameters, node.spec.buffers } do
    for _, declared in ipairs(list) do
      parts[#parts + 1] = ("%s [%s]"):format(declared.name, table.concat(declared.shape, ", "))
    end
  end
  return table.concat(parts, ", ")
end

-- The root's row says something only if it is a layer, or computes by itself.
local function drop_root(rows)
  local root = rows[1]
  if #rows == 1 or root.parameters > 0 or (root.own_flops or 0) > 0 then return end
  table.remove(rows, 1)
  for _, row in ipairs(rows) do row.depth = row.depth - 1 end
end

local function plain_table(rows)
  local cells = {}
  for i, row in ipairs(rows) do
    cells[i] = { label(row), row.kind, number_text(row.parameters), tensors_text(row.node) }
  end
  return text_table.format({ "layer", "kind", "parameters", "tensors" }, cells, { true })
end

local function traced_table(rows)
  local cells = {}
  for i, row in ipairs(rows) do
    cells[i] = { label(row), row.kind, shape_text(row), number_text(row.parameters), number_text(row.own_flops),
      row.bytes and row.bytes > 0 and bytes_text(row.bytes) or "-" }
  end
  return text_table.format({ "layer", "kind", "output", "parameters", "FLOPs", "memory" }, cells, { true })
end

local function size_line(self)
  local whole = self.tree
  local line = ("%s parameters in %d tensors"):format(thousands(self.layout.size), #self.layout)
  if whole.buffer_layout then
    line = line .. (", %s numbers in %d buffers"):format(thousands(whole.buffer_layout.size), #whole.buffer_layout)
  end
  return line
end

local function read_input(input, dtype)
  if core.is_tensor(input) then return input.shape, dtype or input.dtype end
  if type(input) ~= "table" or math.type(input[1]) ~= "integer" then
    core.raise("model:summary takes the shape of an input with its batch axis, as { 64, 1, 28, 28 }, or an input")
  end
  return input, dtype or "f32"
end

-- Totals of rows for a batch of n examples.
local function add_up(self, rows, n)
  local totals = { parameters = self.layout.size, flops = 0, bytes = 0, batch = n }
  for _, row in ipairs(rows) do
    totals.flops = totals.flops + (row.own_flops or 0)
    totals.bytes = totals.bytes + (row.bytes or 0)
  end
  return totals
end

local function totals_text(totals)
  local n = totals.batch
  local function line(what, format, total)
    local each = n > 1 and (" for the batch of %d, %s an example"):format(n, format(total / n)) or ""
    return ("%s: %s%s"):format(what, format(total), each)
  end
  return line("forward FLOPs", function(x) return thousands(x // 1) end, totals.flops) .. "\n" ..
    line("memory of outputs", bytes_text, totals.bytes)
end

-- The rows of a call with an input, then those of what was not called, and the totals.
local function measure(self, input, dtype)
  local shape
  shape, dtype = read_input(input, dtype)
  local rows = traced_rows(self, shape, dtype)
  add_uncalled(rows, declared_rows(self.tree.root, 0, {}))
  drop_root(rows)
  return rows, add_up(self, rows, math.max(1, shape[1] or 1))
end

--- model:summary([input[, dtype]]) → text: The model's modules, nested ones indented. Without an input: their
-- parameters. With the shape of one, batch axis included ({ 64, 1, 28, 28 }; dtype "f32" unless given, "i64" for an
-- embedding), or an input itself: for each call in a forward pass outside training the shape of the output, parameters,
-- floating-point operations (an exp counts as several; what a module's own code does stands in its own row) and bytes
-- of the output, all for the whole batch; below, the sums, and those for one example.
function module.methods:summary(input, dtype)
  if input == nil then
    local rows = declared_rows(self.tree.root, 0, {})
    drop_root(rows)
    return plain_table(rows) .. size_line(self)
  end
  local rows, totals = measure(self, input, dtype)
  return traced_table(rows) .. size_line(self) .. "\n" .. totals_text(totals)
end

--- model:costs(input[, dtype]) → rows, totals: The numbers of model:summary: a list of { path =, kind =, depth =,
-- shape =, parameters =, flops =, bytes = } in the order of calls (a module that was not called has no shape), and
-- { parameters =, flops =, bytes =, batch = }.
function module.methods:costs(input, dtype)
  local rows, totals = measure(self, input, dtype)
  for i, row in ipairs(rows) do
    rows[i] = { path = row.path, kind = row.kind, depth = row.depth, shape = row.shape, parameters = row.parameters,
      flops = row.own_flops, bytes = row.bytes }
  end
  return rows, totals
end
