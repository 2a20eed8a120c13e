-- emit.lua: `perigee emit`: the C that a recipe's steps become, for reading. The engine compiles each program's kernels
-- as a translation unit of their own; here they are gathered into one that compiles as well: what they share once, each
-- kernel once, under numbers that run through all programs, and above each program what it does step by step, with the
-- names that the library has for its memory and the recipe's lines that steps come from.

local builder = require "perigee.builder"
local options = require "perigee.options"
local bytes_of = require("perigee.tensor_args").bytes

local emit = {}

local MARK = "// ---- kernels ----\n"

-- ---- kernels --------------------------------------------------------------------------------------------------------

-- What comes before the kernels in a generated source.
local function prelude_of(source)
  local _, last = source:find(MARK, 1, true)
  return source:sub(1, last)
end

-- The kernels of a generated source, from 0: { title, body }. One that is another name for an earlier one has its body.
local function kernels_of(source)
  local kernels = {}
  local text = source:sub(#prelude_of(source) + 1) .. "\n" -- a blank line behind each kernel, and none within
  for title, number, body in text:gmatch("// ([^\n]*)\nvoid pg_kernel_(%d+)(.-\n)\n") do
    local alias = body:match('alias%("pg_kernel_(%d+)"%)')
    kernels[tonumber(number)] = { title = title, body = alias and kernels[tonumber(alias)].body or body }
  end
  return kernels
end

-- ---- names ----------------------------------------------------------------------------------------------------------

-- The inputs of a program by engine number (from 0): { name, type, layout, dtype }. Tensors that a function captured
-- have no name.
local function input_names(program)
  local names = {}
  for i, argument in ipairs(program.arguments) do
    local input = program.inputs[argument.number] or {}
    names[i - 1] = { name = input.name or ("tensor %d"):format(i - 1), layout = input.layout, dtype = input.dtype,
      type = argument.type }
  end
  return names
end

-- Part of a vector, by its offset in bytes: the name of the tensor that begins there.
local function part_name(input, offset)
  local layout = input.layout
  for i = 1, layout and #layout or 0 do
    if layout[i].offset * bytes_of[input.dtype] == offset then
      return ('%s["%s"]'):format(input.name, layout[i].name)
    end
  end
  return offset > 0 and ("%s + %d bytes"):format(input.name, offset) or input.name
end

-- The text of a step with in3 and out0 replaced by what they hold. whole: vectors are meant as a whole, not the tensor
-- they begin with.
local function name_memory(program, names, text, whole)
  text = text:gsub("%f[%w]out(%d+)%+?(%d*)", function(k, offset)
    local donated = program.results[k + 1].donated
    if donated then return ("in%d+%s"):format(donated - 1, offset) end
    return ("result %d%s"):format(k + 1, offset == "" and "" or (" + %s bytes"):format(offset))
  end)
  return (text:gsub("%f[%w]in(%d+)%+?(%d*)", function(i, offset)
    local input, at = names[math.tointeger(i)], tonumber(offset) or 0
    return at == 0 and whole and input.name or part_name(input, at)
  end))
end

-- ---- printing -------------------------------------------------------------------------------------------------------

local Printer = {}
Printer.__index = Printer

function Printer:put(format, ...) self.out[#self.out + 1] = format:format(...) end

-- Inputs, numbers and results of a program, a line each.
function Printer:put_arguments(program, names)
  local scalars = program.names
  for i = 0, #program.arguments - 1 do self:put(" * in%-3d %-24s %s\n", i, names[i].name, names[i].type) end
  for k, result in ipairs(program.results) do
    if not result.donated then self:put(" * out%-2d %-24s %s\n", k - 1, "result " .. k, result.type) end
  end
  for k, name in ipairs(scalars) do self:put(" * num[%d] %s\n", k - 1, name) end
end

-- The steps of a program, with its kernels under their numbers here; → the kernels that have not been printed yet.
function Printer:put_steps(program, names)
  local kernels, fresh = program.source ~= "" and kernels_of(program.source) or {}, {}
  local rows = {}
  for line in program.outline:gmatch("[^\n]+") do
    local kind, what, extents, operations, lines = line:match("^(%l+)\t([^\t]*)\t([^\t]*)\t?([^\t]*)\t?([^\t]*)$")
    if kind == "number" then
      self:put(" * %s = %s\n", what, extents)
    else
      what = what:gsub("^pg_kernel_(%d+)", function(number)
        local kernel = kernels[tonumber(number)]
        if not kernel then return "kernel" end -- interpreted
        if not self.numbers[kernel.body] then
          self.count = self.count + 1
          self.numbers[kernel.body] = self.count
          fresh[#fresh + 1] = { number = self.count, kernel = kernel }
        end
        return "pg_kernel_" .. self.numbers[kernel.body]
      end)
      local whole = extents:find("^vector") ~= nil
      local done = (kind == "kernel" or kind == "loop") and operations or "library"
      rows[#rows + 1] = { name_memory(program, names, what, whole), done, extents, lines }
    end
  end
  self:put(" *\n")
  for i, row in ipairs(rows) do
    self:put(" * %2d. %s\n", i, row[1])
    self:put(" *     %s over %s%s\n", row[2], row[3], row[4] ~= "" and ", from " .. row[4] or "")
  end
  return fresh
end

function Printer:put_program(program, number, total)
  local names = input_names(program)
  self:put("\n/* ==== %d of %d: %s%s\n *\n", number, total, program.label,
    program.source == "" and " (interpreted)" or "")
  self:put_arguments(program, names)
  local fresh = self:put_steps(program, names)
  self:put(" */\n")
  for _, entry in ipairs(fresh) do
    self:put("\n// %s\nvoid pg_kernel_%d", entry.kernel.title, entry.number)
    self.out[#self.out + 1] = entry.kernel.body
  end
end

local HEAD = [[
/* The C that the steps of %s become, as `perigee emit` prints it.
 *
 * The recipe takes its first step; every program that the library prepared for it stands below, with what it does step
 * by step: kernels, which are printed once each, and calls of the library (matrix products, convolutions, …), whose
 * operands have their shapes behind them. An arrow marks memory that is written, a bar what reductions end in;
 * in0, in1, … are inputs, t0, t1, … temporary memory. The lines are the recipe's; a derivative has those of what it is
 * the derivative of.
 *
 * A kernel's arguments are listed in the order of p0, p1, …. In it, p3 is the memory of argument 3 and a3 the same at
 * the current line, s3 and t3 are its strides and index strides, v7 is the value of instruction 7, x7 a block of such
 * values, lanes0, y0 and r0 are the accumulators of reduction 0, call->num are the numbers num[0], num[1], …, which the
 * host computes in double precision. A kernel computes the tiles tile0 … tile1 - 1 of its grid; threads share them out.
 *
 * Compile it with: cc -std=gnu11 -O2 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -c
 *
%s */

]]

-- Programs (of builder.lua's describe) as one text. only: print no others than those whose label has this in it.
function emit.format(recipe, programs, only)
  local chosen, seen = {}, {}
  for _, program in ipairs(programs) do
    local key = tostring(program.label) .. program.outline .. program.source
    if not seen[key] and program.label and (not only or program.label:find(only, 1, true)) then
      seen[key] = true
      chosen[#chosen + 1] = program
    end
  end
  local printer = setmetatable({ out = {}, numbers = {}, count = 0 }, Printer)
  local contents, prelude = {}, ""
  for i, program in ipairs(chosen) do
    contents[i] = (" * %2d. %s\n"):format(i, program.label)
    if program.source ~= "" then prelude = prelude_of(program.source) end
    printer:put_program(program, i, #chosen)
  end
  return HEAD:format(recipe, table.concat(contents)) .. prelude .. table.concat(printer.out), #chosen
end

-- `perigee emit RECIPE key=value…` → exit code.
function emit.main(path, words, flags)
  local cli = require "perigee.cli"
  local directory, remove = require("perigee.check").scratch_directory(flags)
  local programs, trace = {}, builder.trace
  builder.trace = function(...) -- luacheck: ignore 122
    local program = trace(...)
    programs[#programs + 1] = program
    return program
  end
  local code = cli.call_muted(cli.run_recipe, path, words, flags, { root = directory, limit = 1 })
  builder.trace = trace -- luacheck: ignore 122
  remove()
  if code == 2 or #programs == 0 then return code end
  for i, program in ipairs(programs) do programs[i] = program:describe() end
  local text, count = emit.format(path, programs, flags.only)
  if count == 0 then
    options.misused(flags.only and ("no program of %s is called \"%s\""):format(path, flags.only)
      or path .. ": there is no pg.train in it whose steps could be printed")
  end
  io.write(text)
  if code ~= 0 then
    io.stderr:write("perigee: the recipe could not go on after single steps (above); what came before is printed\n")
  end
  return code
end

return emit
