-- pieces.lua: micro-batches. An evaluation of a batch in pieces takes the memory of one piece: a loop of the program
-- goes over pieces of one size, and there are at most two loops over a batch (sizes that differ by 1), whatever their
-- number. Owns how a batch is cut and how the results are averaged; evaluation.lua says what happens to a piece.

local batches = require "perigee.batch"
local core = require "perigee.core"
local names = require "perigee.names"
local statistics = require "perigee.statistics"
local vectors = require "perigee.vectors"

local pieces = {}

-- How a batch is cut: nil if it stays whole, else { n =, count =, groups } with one or two groups of pieces of one
-- size, { count =, size =, before = (pieces), row = (rows before) }. micro: pieces of a step's batch, which has `usual`
-- examples (0: as many as this one); a shorter batch has fewer, so that none is larger than a step's.
function pieces.divide(batch, micro, usual)
  if micro == 1 then return nil end
  if batch.count and not batch.sample_weight then
    core.raise(("micro = %d cuts a batch by its rows; one with `count`, whose rows are not all examples, stays whole")
      :format(micro))
  end
  local n = batches.size(batch)
  if usual == 0 then usual = n end
  local count = math.min(n, (n * micro + usual - 1) // usual)
  if count <= 1 then return nil end
  local size, larger = n // count, n % count
  local division = { n = n, count = count }
  if larger > 0 then division[1] = { count = larger, size = size + 1, before = 0, row = 0 } end
  division[#division + 1] = { count = count - larger, size = size, before = larger, row = larger * (size + 1) }
  return division
end

-- " in 4 pieces", for names of programs; nothing for a batch that stays whole.
function pieces.describe(division)
  return division and (" in %d pieces"):format(division.count) or ""
end

-- Raise an error unless a step's batch of n examples has enough for so many pieces.
function pieces.check(micro, n)
  if micro > n then
    core.raise(("micro is %d, but a batch has only %d examples"):format(micro, n))
  end
end

-- x with every tensor in it replaced by f(tensor).
local function map_tensors(x, f)
  if core.is_tensor(x) then return f(x) end
  if type(x) ~= "table" then return x end
  local copy = {}
  for _, name in ipairs(names.sorted(x)) do copy[name] = map_tensors(x[name], f) end
  return copy
end

-- The fields of a batch with a row for each example, [pieces, size, …], and their names.
local function cut(batch, division, group)
  local list, cut_names = {}, {}
  for _, name in ipairs(names.sorted(batch)) do
    local x = batch[name]
    if core.is_tensor(x) and not x.layout and x.ndim > 0 and x.shape[1] == division.n then
      local shape = x.shape
      local rows = x:slice { group.row + 1, group.row + group.count * group.size }
      list[#list + 1] = rows:reshape(group.count, group.size, table.unpack(shape, 2))
      cut_names[#cut_names + 1] = name
    end
  end
  return list, cut_names
end

-- The batch of one piece, from the slices of its cut fields. Pieces are averaged, weighted sums are not averages: the
-- weights of a piece are those of an average over it. share: of the batch's rows that the piece has.
local function piece_of(batch, cut_names, slices, share)
  local piece = {}
  for name, x in next, batch do piece[name] = x end
  for i, name in ipairs(cut_names) do piece[name] = slices[i] end
  if piece.sample_weight then piece.sample_weight = piece.sample_weight / share end
  return piece
end

-- A loop over the pieces of a group: { sums (of the statistics, added to those given), loss (their sum), aux (of the
-- first piece), buffers }.
local function loop(batch, division, group, given, buffers, evaluate)
  local xs, cut_names = cut(batch, division, group)
  xs[#xs + 1] = core.apply("iota", { a = { group.count }, b = { 0 }, dtype = "i64" }) + group.before
  local fields, carry, aux, layouts = statistics.fields(given), {}, nil, nil
  for i, field in ipairs(fields) do carry[i] = given[field] end
  carry[#fields + 1] = buffers
  local last, ys = core.scan(function(sums, slices)
    local piece = piece_of(batch, cut_names, slices, group.size / division.n)
    local now = evaluate { batch = piece, number = slices[#xs], buffers = sums[#fields + 1] }
    local new, kept = {}, { now.loss }
    for i, field in ipairs(fields) do new[i] = sums[i] + now.stats[field] end
    new[#fields + 1] = buffers and (now.buffers or sums[#fields + 1])
    aux, layouts = now.aux, {}
    map_tensors(aux, function(x)
      layouts[#kept], kept[#kept + 1] = x.layout, x.layout and x:flat() or x
    end)
    return new, kept
  end, carry, xs, group.count, false)
  local k = 0
  local first_aux = map_tensors(aux, function()
    k = k + 1
    local x = ys[k + 1]:slice(1)
    return layouts[k] and vectors.unflatten(x, { layout = layouts[k] }) or x
  end)
  local sums = statistics.map(given, function(_, field)
    for i, name in ipairs(fields) do if name == field then return last[i] end end
  end)
  return { sums = sums, loss = core.apply("sum", nil, ys[1]), aux = first_aux, buffers = last[#fields + 1] }
end

-- Evaluate a batch in pieces: { stats, loss (averages weighted by the pieces' counts), aux (of the first piece),
-- buffers (after the last one) }. zeros: statistics of zeros. buffers: those that the first piece reads, each other one
-- those that the piece before it left; nil where none are adopted. evaluate(piece) → { stats, loss, aux, buffers },
-- where piece is { batch =, number = (0-based, traced), buffers = }.
function pieces.average(batch, division, zeros, buffers, evaluate)
  local n, one, two = division.n, division[1], division[2]
  local first = loop(batch, division, one, zeros, buffers, evaluate)
  if not two then
    first.stats, first.loss = first.sums / division.count, first.loss / division.count
    return first
  end
  -- the second loop goes on from the first one's sums, in units of its own pieces
  local found = loop(batch, division, two, first.sums * (one.size / two.size), first.buffers, evaluate)
  found.stats, found.loss = found.sums * (two.size / n), first.loss * (one.size / n) + found.loss * (two.size / n)
  found.aux = first.aux
  return found
end

return pieces
