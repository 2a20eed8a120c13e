-- row_table.lua: a table of statistics on the host: one tensor [rows, width] for each field, in memory or in a file,
-- and the rows of the present batch in staging tensors, which programs read and write. Owns which row is whose, the
-- check of what the table will take, and which rows of a table that is not saved are there.

local core = require "perigee.core"
local machine = require "perigee.machine"
local names = require "perigee.names"
local statistics = require "perigee.statistics"

local row_table = {}

local Table = {}
Table.__index = Table
Table.__name = "perigee.row_table"

-- owner: for messages. spec: of pg.rows. volatile: it can be computed again, so that it is not saved. advice: what
-- makes it smaller, for the refusal of one that is too large.
function row_table.new(owner, spec, options)
  return setmetatable({
    owner = owner, spec = spec, volatile = options.volatile or false, advice = options.advice, pools = {}, present = {},
    by_key = {}, known = 0,
  }, Table)
end

function row_table.is(x)
  return getmetatable(x) == Table
end

-- ---- memory ---------------------------------------------------------------------------------------------------------

local function directory_of_files()
  local chosen = os.getenv "TMPDIR"
  if chosen and chosen ~= "" then return chosen end
  return core.data.exists "/var/tmp" and "/var/tmp" or "/tmp" -- /tmp may itself be memory
end

local function gib(bytes) return ("%.3g GiB"):format(bytes / 2 ^ 30) end

local function bytes_of(dtype) return dtype == "f64" and 8 or 4 end

local function check_memory(self, n, widths, dtype)
  local width = 0
  for _, w in next, widths do width = width + w end
  local bytes, left = n * width * bytes_of(dtype), machine.memory "MemAvailable"
  if not self.spec.file and left and bytes > left then
    core.raise(("%s: a table of %d rows of %d numbers takes %s, and %s of memory are left: %s"):format(self.owner, n,
      width, gib(bytes), gib(left), self.advice))
  end
end

-- Make the table: n rows; widths: name of the field → numbers in a row.
function Table:allocate(n, widths, dtype)
  check_memory(self, n, widths, dtype)
  self.n, self.widths, self.dtype, self.tensors = n, widths, dtype, {}
  self.fields = names.sorted(widths)
  for _, field in ipairs(self.fields) do
    local shape = { n, widths[field] }
    self.tensors[field] = self.spec.file and core.data.in_file(dtype, shape, directory_of_files())
      or core.tensor(dtype, shape)
  end
  if self.spec.per == "batch" then
    self.keys, self.row = core.tensor("i64", { n }), core.tensor("i64", { 1 })
  end
end

-- Make room for as many rows as there are, if it has not been made: another number of them is an error.
function Table:ensure(n, widths, dtype)
  if not self.tensors then
    self:allocate(n, widths, dtype)
  elseif self.n ~= n then
    core.raise(("%s: the table has %d rows, and %d are needed: it belongs to other data or batches"):format(self.owner,
      self.n, n))
  end
end

-- The tensors [count, width] that hold the rows of a batch of `count` examples while a program runs, by field.
function Table:staging(count)
  if self.spec.per == "batch" then count = 1 end
  local pool = self.pools[count]
  if not pool then
    pool = {}
    for _, field in ipairs(self.fields) do pool[field] = core.tensor(self.dtype, { count, self.widths[field] }) end
    self.pools[count] = pool
  end
  return pool
end

-- In builder b, the rows of a batch of `count` examples as traced statistics. prefix: of their inputs' names.
function Table:traced(b, count, prefix)
  local staging, fields = self:staging(count), {}
  for _, field in ipairs(self.fields) do fields[field] = b:slot(staging[field], prefix .. field) end
  return statistics.new(fields)
end

-- In builder b, let the program leave these rows in the staging tensors.
function Table:output(b, count, given)
  local staging = self:staging(count)
  for _, field in ipairs(self.fields) do b:output(given[field], staging[field]) end
end

-- ---- which row ------------------------------------------------------------------------------------------------------

-- Say which ids the examples have (i64 [n]), row by row, where they are not 0, 1, …: those of a part of the data.
function Table:number(ids)
  local highest, in_order = -1, true
  for row = 0, self.n - 1 do
    local id = ids:data_read(row)
    highest, in_order = math.max(highest, id), in_order and id == row
  end
  if in_order then return end
  self.places = core.tensor("i64", { highest + 1 })
  for id = 0, highest do self.places:data_write(id, -1) end
  for row = 0, self.n - 1 do self.places:data_write(ids:data_read(row), row) end
end

-- The rows of examples with these ids, in memory that is used again.
local function rows_of_ids(self, ids)
  if not self.places then return ids end
  local count = ids.size
  self.numbers = self.numbers or {}
  self.numbers[count] = self.numbers[count] or core.tensor("i64", { count })
  core.data.gather(self.places, ids, self.numbers[count])
  return self.numbers[count]
end

-- Forget which batches there are: a pass over another partition begins.
function Table:forget()
  for row = 0, self.known - 1 do self.keys:data_write(row, 0) end
  self.by_key, self.present, self.known = {}, {}, 0
end

-- The row (from 0) of a batch; a new one if there is room.
local function row_of_batch(self, batch)
  if not batch.id then
    core.raise(self.owner .. ": a row for each batch is found by the batch's ids (batch.id, i64), and there are none")
  end
  local key = batch.id:hash()
  local row = self.by_key[key]
  if row then return row end
  row = self.known
  if row == self.n then
    core.raise(("%s: this batch is none of the %d that the pass went through: they have to stay the same "
      .. "(lock = { partition = true }, and passes in batches of the steps' size)"):format(self.owner, row))
  end
  self.by_key[key], self.known = row, row + 1
  self.keys:data_write(row, key)
  return row
end

-- The rows of a batch as a tensor of indices.
local function rows_of(self, batch)
  if self.spec.per == "example" then return rows_of_ids(self, batch.id) end
  self.row:data_write(0, row_of_batch(self, batch))
  return self.row
end

-- Whether the row of a batch has been kept; asked of tables that are not saved.
function Table:has(batch)
  return self.present[row_of_batch(self, batch)] == true
end

-- Bring a batch's rows into the staging tensors. What could keep `store` from succeeding is found here, before a
-- program runs.
function Table:load(batch, count)
  local staging, index = self:staging(count), rows_of(self, batch)
  core.data.check_distinct(index)
  for _, field in ipairs(self.fields) do core.data.gather(self.tensors[field], index, staging[field]) end
end

-- The same for a probe: a batch that has no row yet gets none, and reads as zeros.
function Table:peek(batch, count)
  if self.spec.per == "example" or batch.id and self.by_key[batch.id:hash()] then return self:load(batch, count) end
  for _, tensor in next, self:staging(count) do tensor:copy_from(core.tensor(tensor.dtype, tensor.shape)) end
end

-- Keep what a program left in the staging tensors.
function Table:store(batch, count)
  local staging, index = self:staging(count), rows_of(self, batch)
  for _, field in ipairs(self.fields) do core.data.put(staging[field], index, self.tensors[field]) end
  if self.volatile then self.present[row_of_batch(self, batch)] = true end
end

-- ---- saving ---------------------------------------------------------------------------------------------------------

-- Its tensors as a list of { suffix, tensor }; none while there is no table, or it can be computed again.
function Table:parts()
  local list = {}
  if self.volatile or not self.tensors then return list end
  for _, field in ipairs(self.fields) do list[#list + 1] = { "." .. field, self.tensors[field] } end
  if self.keys then list[#list + 1] = { ".keys", self.keys } end
  return list
end

-- Before a saved state is copied in: if there are no rows yet, make as many as were saved. saved: function(suffix) →
-- tensor or nil; fields: of the statistics.
function Table:make_room(saved, fields)
  if self.tensors then return end
  local widths, n, dtype = {}, nil, nil
  for _, field in ipairs(fields) do
    local tensor = saved("." .. field)
    if tensor then n, widths[field], dtype = tensor.shape[1], tensor.shape[2], tensor.dtype end
  end
  if n then self:allocate(n, widths, dtype) end
end

-- After a saved state was copied in: whose rows they are.
function Table:settle()
  self.by_key, self.present, self.known = {}, {}, 0
  if not self.keys or self.volatile then return end
  for row = 0, self.n - 1 do
    local key = self.keys:data_read(row)
    if key == 0 then break end
    self.by_key[key], self.known = row, row + 1
  end
end

-- "n x P" and the like, for people.
function Table:describe()
  local per = self.spec.per == "batch" and "batches" or "n"
  return ("%s x %s"):format(per, self.spec.linear and "outputs" or "P")
end

return row_table
